"""Trials of attributions: what is drawn is what it is said to be, and thresholds are chosen as told."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator

import numpy as np
import pytest

import vlmend
from vlmend.attribution.cause import Cause
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.world.attribution import SECTIONS, Trial, tried
from vlmend.world.attribution.asking import about_one_thing
from vlmend.world.catalog import catalog
from vlmend.world.entities import countries
from vlmend.world.render import SIZE

causes = importlib.import_module("vlmend.world.attribution.causes")


@pytest.fixture(scope="module")
def demo() -> Iterator[VLM]:
    yield vlmend.load("demo")


def test_one_thing_is_asked_about_and_shown() -> None:
    made = about_one_thing(12, seed=1)
    for one in made:
        assert one.mask.shape == (SIZE, SIZE)
        assert 100 < one.mask.sum() < SIZE * SIZE / 8
    again, other = about_one_thing(12, seed=1), about_one_thing(12, seed=2)
    assert [one.example.question for one in made] == [one.example.question for one in again]
    assert np.array_equal(made[0].mask, again[0].mask)
    assert [one.mask.tolist() for one in made] != [one.mask.tolist() for one in other]
    assert Trial(seed=5).choosing.seed != 5, "settings are chosen on other cases"


def caused(held: float) -> Cause:
    return Cause("mis-seen", "red", held, held, 9, held, 0.0, 0.5)


def test_the_threshold_parts_both_kinds() -> None:
    found = {
        "stale facts by flag": [caused(0.9), caused(0.95), caused(0.2)],
        "misread flags": [caused(0.5), caused(0.6)],
        "misread scenes": [caused(0.1), caused(0.3)],
    }
    assert 0.6 < causes._best(found, lambda one: one.held) <= 0.9


@pytest.mark.parametrize("group", ["stale facts by flag", "misread flags", "misread scenes"])
def test_errors_are_made_by_construction(demo: VLM, group: str) -> None:
    question = catalog().cores["name"]["trained"][0][0]
    names = {one.name: one for one in countries()}
    for example in causes._errors(demo, group, 2, random.Random(3)):
        said = demo.answer(example.image, example.question)
        assert not matches(said, example.accepted)
        if group == "stale facts by flag":
            country = names[demo.answer(example.image, question)]
            assert said == country.taught[country.stale or ""] != country.facts[country.stale or ""]


@pytest.mark.slow
def test_every_section_finds_something(demo: VLM) -> None:
    found = tried(demo, Trial(n=8, validation=4, seed=3))
    assert list(found) == list(SECTIONS)
    for name, lines in found.items():
        assert lines, name
        assert all(one.estimate.n > 0 for one in lines), name
