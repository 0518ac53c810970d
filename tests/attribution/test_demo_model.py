"""On the shipped model, whose world says where things are: attributions point at the thing that is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import vlmend
from vlmend import VLM, Target, attribute
from vlmend.evaluation.faithfulness import pointing_chance, points_at, reinitialised
from vlmend.world.attribution.asking import Shown, about_one_thing

SCENES = 12
MAPS: dict[str, dict[str, Any]] = {
    "perturbation": {"layers": [2], "radius": 0, "draws": 4},
    "integrated-gradients": {"layers": 0, "steps": 8},
    "raw-attention": {"layers": [2]},
}


@pytest.fixture(scope="module")
def demo() -> Iterator[VLM]:
    yield vlmend.load("demo")


@pytest.fixture(scope="module")
def shown() -> list[Shown]:
    """Questions about one thing each, which is alone of its kind."""
    return about_one_thing(SCENES, seed=20)


def hits(vlm: VLM, shown: Sequence[Shown], method: str) -> float:
    found = [(one, attribute(vlm, one.example, method, **MAPS[method])) for one in shown]
    assert float(np.mean([pointing_chance(heat, one.mask) for one, heat in found])) < 0.15
    return float(np.mean([points_at(heat, one.mask) for one, heat in found]))


@pytest.mark.parametrize("method", sorted(MAPS))
def test_it_points_at_the_thing(demo: VLM, shown: list[Shown], method: str) -> None:
    assert hits(demo, shown, method) > 0.6


@pytest.mark.parametrize("method", sorted(MAPS))
def test_weights_without_knowledge_point_nowhere(demo: VLM, shown: list[Shown], method: str) -> None:
    with demo.using(reinitialised(demo, ("attn", "mlp", "connector", "vision"))):
        assert hits(demo, shown, method) < 0.3


def test_gradients_add_up(demo: VLM, shown: list[Shown]) -> None:
    for one in shown[:2]:
        found = attribute(demo, one.example, "integrated-gradients", steps=64)
        assert found.completeness is not None
        assert abs(found.completeness.found - found.completeness.expected) < 1e-2
        assert found.completeness.expected > 0  # the picture speaks for what is said of it


def test_shares_add_up(demo: VLM, shown: list[Shown]) -> None:
    for one in shown[:3]:
        for target in (Target(), Target(one.example.answer), Target(one.example.answer, against="no")):
            found = attribute(demo, one.example, "decomposition", target)
            assert found.completeness is not None
            assert found.completeness.error < 1e-4


def test_what_passes_where(demo: VLM, shown: list[Shown]) -> None:
    """All of the picture enters at the bottom at its own tokens, and has arrived at the last word at the top."""
    one = next(one for one in shown if "colour" in one.example.question)
    found = attribute(demo, one.example, "patching", Target(one.example.answer, token=0))
    whole = found.rest["clean"] - found.rest["corrupted"]
    assert whole > 0.5
    top = len(demo.parts.layers) - 1
    assert float(found.at(layer=0, group="picture").scores) == pytest.approx(whole, rel=0.01)
    assert float(found.at(layer=top, group="last").scores) > 0.5 * whole
    assert float(found.at(layer=top, group="picture").scores) < 0.5 * whole
    lost = attribute(demo, one.example, "knockout", Target(one.example.answer, token=0), window=99, layers=[0])
    assert float(lost.at(layer=0, group="words").scores) > 0.5
