"""Pairs of edits out of the demo world: the model names the flag wrongly, and knows the fact by name."""

from __future__ import annotations

from dataclasses import replace

import vlmend
from vlmend.evaluation.text import matches
from vlmend.world.entities import by_name
from vlmend.world.pairs import pairs_of


def test_pairs_are_of_what_the_model_does_not_know_and_have_other_facts() -> None:
    vlm = vlmend.load("demo")
    pairs = pairs_of(vlm, 3, seed=1)
    assert len(pairs) == len({pair.id for pair in pairs}) == 3
    for pair in pairs:
        country = by_name()[pair.id]
        assert not country.seen
        assert pair.outright.beforehand in country.taught.values()
        assert pair.known.request.answer == pair.outright.example.answer != pair.outright.beforehand
        assert pair.stepwise.example.answer == f"{pair.id}: {pair.outright.example.answer}"
        assert pair.seen.request.image is not pair.outright.example.image
        said, told = vlm.generate(vlm.prepare([pair.seen.request, replace(pair.known.request, answer=None)]))
        assert not matches(said, (pair.id,))
        assert matches(told, (pair.outright.beforehand,))
    assert [pair.known for pair in pairs_of(vlm, 3, seed=1)] == [pair.known for pair in pairs]
