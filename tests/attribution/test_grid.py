"""Every method on every family: with several pictures, where the model takes them, and beside cached generation."""

from __future__ import annotations

import pytest
import torch

from vlmend import Example, Target, attribute
from vlmend.attribution.base import METHODS
from vlmend.errors import PromptError

FEW = {
    "integrated-gradients": {"steps": 2},
    "perturbation": {"draws": 2, "layers": "all"},  # a layer with a sliding window may see no picture
    "patching": {"layers": [1]},
    "knockout": {"layers": [1]},
}
"""Settings with which a method is quick."""


@pytest.fixture
def asked(vlm, picture) -> Example:
    """About two pictures, of two sizes; about one where the model refuses two, and says so."""
    two = Example("what is on both ?", (picture(1), picture(2, (40, 28))))
    try:
        vlm.prepare([two])
    except PromptError as error:
        assert "takes one picture with a question, not 2" in str(error)
        return Example("what is there ?", picture(1))
    return two


@pytest.mark.parametrize("method", sorted(METHODS))
def test_says_why_and_leaves_generation_alone(vlm, asked, method):
    prepared = vlm.prepare([asked])
    before = vlm.replies(prepared, max_new_tokens=4)
    found = attribute(vlm, asked, method, Target("red"), **FEW.get(method, {}))
    assert found.scores.numel()
    assert torch.isfinite(found.scores).all()
    assert (found.scores != 0).any()
    assert [len(labels) for labels in found.axes.values()] == list(found.scores.shape)
    if "place" in found.axes:
        assert {place.picture for place in found.places} == set(range(len(prepared.rows[0].pictures)))
        for index, (width, height) in enumerate(prepared.rows[0].sizes):
            others = {name: labels[0] for name, labels in found.axes.items() if name != "place"}
            assert found.at(**others).heat(index).shape == (height, width)
    assert vlm.replies(prepared, max_new_tokens=4) == before


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_own_token_is_that_of_cached_generation(vlm, asked, method):
    """What is explained without a target is the token that generation says first."""
    found = attribute(vlm, asked, method, **FEW.get(method, {}))
    (reply,) = vlm.replies(vlm.prepare([asked]), max_new_tokens=3)
    assert found.target["ids"] == [[reply.tokens[0]]]
