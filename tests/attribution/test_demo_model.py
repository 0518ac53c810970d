"""On the shipped model, whose world says where things are: attributions of a colour point at the thing that has it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import vlmend
from vlmend import VLM, Attribution, Example, Target, attribute
from vlmend.world.questions import ask
from vlmend.world.render import Style, render
from vlmend.world.scene import draw_scene

SCENES = 10


@pytest.fixture(scope="module")
def demo() -> Iterator[VLM]:
    yield vlmend.load("demo")


@dataclass(frozen=True)
class Coloured:
    """A question about one thing's colour, and where that thing is."""

    example: Example
    mask: np.ndarray

    def touched(self, box: tuple[float, float, float, float]) -> bool:
        left, top, right, bottom = (round(edge) for edge in box)
        return bool(self.mask[top:bottom, left:right].any())

    def hit(self, found: Attribution) -> bool:
        """Whether the thing can be seen in the place with the highest score."""
        x, y = found.peak()
        boxes = [place.box for place in found.places if place.box is not None]
        return self.touched(next(box for box in boxes if box[0] <= x < box[2] and box[1] <= y < box[3]))

    def chance(self, found: Attribution) -> float:
        """The share of places in which it can be seen."""
        return float(np.mean([self.touched(place.box) for place in found.places if place.box is not None]))


@pytest.fixture(scope="module")
def coloured() -> list[Coloured]:
    """Scenes of uniformly drawn things, and the colour of one that is there once."""
    rng = random.Random(20)
    made: list[Coloured] = []
    while len(made) < SCENES:
        scene = draw_scene(rng, "uniform")
        question = ask(scene, "colour", rng)
        if question is None or scene.counts[question.slots["x"]] != 1:
            continue
        thing = next(i for i, one in enumerate(scene.things) if one.kind == question.slots["x"])
        picture = render(scene, Style(rng.getrandbits(48)))
        example = Example(question.put(rng, plain=1.0, lead=0.0), picture.image(), question.answer)
        made.append(Coloured(example, picture.mask == thing + 1))
    return made


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("perturbation", {"layers": 0.5, "radius": 0, "draws": 5}),
        ("integrated-gradients", {"layers": 0, "steps": 12}),
    ],
    ids=["perturbation", "integrated-gradients"],
)
def test_it_points_at_the_thing(demo: VLM, coloured: list[Coloured], method: str, settings: dict) -> None:
    found = [attribute(demo, one.example, method, **settings) for one in coloured]
    chance = np.mean([one.chance(other) for one, other in zip(coloured, found, strict=True)])
    hits = np.mean([one.hit(other) for one, other in zip(coloured, found, strict=True)])
    assert chance < 0.2
    assert hits > 0.6


def test_gradients_add_up(demo: VLM, coloured: list[Coloured]) -> None:
    for one in coloured[:2]:
        found = attribute(demo, one.example, "integrated-gradients", steps=64)
        assert found.completeness is not None
        assert abs(found.completeness.found - found.completeness.expected) < 1e-2
        assert found.completeness.expected > 0  # the picture speaks for what is said of it


def test_shares_add_up(demo: VLM, coloured: list[Coloured]) -> None:
    for one in coloured[:3]:
        for target in (Target(), Target(one.example.answer), Target(one.example.answer, against="no")):
            found = attribute(demo, one.example, "decomposition", target)
            assert found.completeness is not None
            assert found.completeness.error < 1e-4


def test_what_passes_where(demo: VLM, coloured: list[Coloured]) -> None:
    """All of the picture enters at the bottom at its own tokens, and has arrived at the last word at the top."""
    one = coloured[0]
    found = attribute(demo, one.example, "patching", Target(one.example.answer, token=0))
    whole = found.rest["clean"] - found.rest["corrupted"]
    assert whole > 0.5
    top = len(demo.parts.layers) - 1
    assert float(found.at(layer=0, group="picture").scores) == pytest.approx(whole, rel=0.01)
    assert float(found.at(layer=top, group="last").scores) > 0.5 * whole
    assert float(found.at(layer=top, group="picture").scores) < 0.5 * whole
    lost = attribute(demo, one.example, "knockout", Target(one.example.answer, token=0), window=99, layers=[0])
    assert float(lost.at(layer=0, group="words").scores) > 0.5
