"""Faithfulness: each test tells a true map from a false one where both are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import assert_untouched, weights_of
from vlmend import Attribution, Example, Target, attribute
from vlmend.attribution.target import strands
from vlmend.errors import AttributionError
from vlmend.evaluation.faithfulness import (
    at_random,
    noise_effect,
    pointing_chance,
    points_at,
    rank_correlation,
    reinitialised,
    removal,
    spearman,
)
from vlmend.models.layout import Place

QUESTION = "what colour is the cup ?"


def a_map(scores: list[float]) -> Attribution:
    """Four places in a row of a picture of 8 x 2 pixels."""
    return Attribution(
        method="by hand",
        settings={},
        scores=torch.tensor(scores),
        axes={"place": (0, 1, 2, 3)},
        target={"tokens": [["red"]], "of": "log_prob"},
        model="toy",
        question="what ?",
        places=tuple(Place(0, (2.0 * i, 0.0, 2.0 * i + 2, 2.0)) for i in range(4)),
        sizes=((8, 2),),
    )


def test_pointing():
    mask = np.zeros((2, 8), dtype=bool)
    mask[:, 3:6] = True  # half of the second place, all of the third
    assert points_at(a_map([0, 0, 1, 0]), mask)
    assert points_at(a_map([0, 1, 0, 0]), mask)
    assert not points_at(a_map([1, 0, 0, 0]), mask)
    assert pointing_chance(a_map([0, 0, 1, 0]), mask) == 0.5
    assert points_at(a_map([0, 1, 0, 0]), mask, middle=True)
    mask[:, 3] = False
    assert not points_at(a_map([0, 1, 0, 0]), mask, middle=True)
    assert pointing_chance(a_map([0, 1, 0, 0]), mask, middle=True) == 0.25
    with pytest.raises(AttributionError, match="the mask has 8 x 3 pixels, the picture 8 x 2"):
        points_at(a_map([1, 0, 0, 0]), np.zeros((3, 8), dtype=bool))


def test_a_picture_is_taken_away_in_the_order_of_the_map(llava, picture):
    """Both curves end where they must, and a map and its reverse are each other's insertion and deletion."""
    example = Example(QUESTION, picture(1))
    found = attribute(llava, example, "raw-attention", layers=[0]).at(layer=0)
    one = removal(llava, example, found, "red", steps=4)
    other = removal(llava, example, replace(found, scores=-found.scores), "red", steps=4)
    row = llava.run(llava.prepare([replace(example, answer="red")])).rows[0]
    whole = math.exp(float(row.logits_NV[0].log_softmax(-1)[row.target_N[0]]))
    assert len(one.kept) == len(one.restored) == 5
    assert one.kept[0] == one.restored[-1] == pytest.approx(whole, rel=1e-4)
    assert one.kept[-1] == one.restored[0]
    assert one.kept != one.restored[::-1]
    area = (sum(one.kept) - (one.kept[0] + one.kept[-1]) / 2) / 4
    assert one.deletion == pytest.approx(area)
    # What the map takes first the reversed map gives back last, up to ties inside a place.
    assert one.deletion == pytest.approx(other.insertion, rel=0.02)
    with pytest.raises(AttributionError, match="at least one step"):
        removal(llava, example, found, "red", steps=0)
    with pytest.raises(AttributionError, match="no tokens"):
        removal(llava, example, found, "  ")


def test_random_order(llava, picture):
    found = a_map([1, 2, 3, 4])
    one, other = at_random(found, 1), at_random(found, 2)
    assert torch.equal(one.scores, at_random(found, 1).scores)
    assert not torch.equal(one.scores, other.scores)
    assert one.places == found.places
    with pytest.raises(AttributionError, match="has no map"):
        at_random(attribute(llava, Example(QUESTION, picture(1))), 1)


def test_weights_without_knowledge(llava, picture):
    """Drawn anew with their own spread, in force as an edit, and gone again bit for bit."""
    before = weights_of(llava)
    edit = reinitialised(llava, seed=3)
    base = dict(llava.weights.base())
    (op,) = edit.ops
    assert op.names
    for name in op.names:
        drawn = op.fold(name, base[name].float())
        assert float(drawn.std()) == pytest.approx(float(base[name].float().std()), rel=0.15)
        assert not torch.allclose(drawn, base[name].float(), atol=1e-3)
    example = replace(Example(QUESTION, picture(1)), answer="red")
    plain = llava.run(llava.prepare([example])).rows[0].logits_NV
    with llava.using(edit):
        assert not torch.allclose(llava.run(llava.prepare([example])).rows[0].logits_NV, plain, atol=1e-3)
    assert_untouched(llava, before)
    assert edit.id != reinitialised(llava, seed=4).id


def test_noise_on_modules(vlm, picture):
    """None where it cannot matter: at the last layer only the position that predicts the answer counts."""
    example = Example(QUESTION, picture(1))
    lost = noise_effect(vlm, example, Target("red", token=0), draws=2)
    top = {name: float(lost_LM[-1].abs().max()) for name, lost_LM in lost.items()}
    assert top.pop("last") > 1e-4
    assert max(top.values()) < 1e-4
    assert lost["last"].shape == (len(vlm.parts.layers), 2)
    quiet = noise_effect(vlm, example, Target("red", token=0), draws=1, size=0.0)
    assert max(float(one.abs().max()) for one in quiet.values()) < 1e-4
    (strand,) = strands(vlm, example, Target("red", token=0))
    assert strand.picks_N.tolist() == [0]


def test_rank_correlation():
    assert spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1.0)
    assert spearman([3, 2, 1], [1, 2, 3]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    found = rank_correlation([[1, 2, 3], [1, 2, 3], [1, 1, 1]], [[1, 2, 3], [3, 2, 1], [1, 2, 3]])
    assert (found.of.n, found.of.mean, found.pairs) == (2, pytest.approx(0.0), 3)
    with pytest.raises(AttributionError, match="not of the same things"):
        rank_correlation([[1, 2]], [[1, 2, 3]])
