from __future__ import annotations

import pytest
import torch

import vlmend
from vlmend import Example, Target, attribute
from vlmend.attribution.target import strands
from vlmend.errors import AttributionError

QUESTION = "what colour is the cup ?"


def test_weights_are_those_that_mix_the_values(vlm, picture):
    """Every family; the weights on all keys, of which these are the visual ones', are at most 1 together."""
    found = attribute(vlm, Example(QUESTION, picture(1)), "raw-attention", Target("red", token=0))
    assert found.axes["layer"] == tuple(range(len(vlm.parts.layers)))
    assert (found.scores >= 0).all()
    assert (found.scores.sum(-1) <= 1 + 1e-5).all()
    assert (found.scores.sum(-1) > 0).all()
    if "place" in found.axes:
        assert found.at(layer=1).heat().shape == (36, 44)
    else:
        assert found.axes["query"]


def test_they_are_what_the_model_itself_reports(tiny_folder, picture):
    """Against transformers' own attention weights, mean over heads, of the last position."""
    llava = vlmend.load(str(tiny_folder("llava")))  # a model of its own: transformers leaves hooks behind
    example = Example(QUESTION, picture(1))
    found = attribute(llava, example, "raw-attention")
    (strand,) = strands(llava, example, Target())
    row = strand.row
    inputs = {"input_ids": row.ids_T[None], **strand.prepared.pictures[row.picture]}
    llava.model.set_attn_implementation("eager")
    with torch.no_grad():
        output = llava.model(**inputs, output_attentions=True)
    wanted_LS = torch.stack([one[0, :, -1].mean(0)[strand.visual] for one in output.attentions])
    torch.testing.assert_close(found.scores, wanted_LS.float(), rtol=1e-4, atol=1e-6)


def test_what_it_has_nothing_to_say_of(llava, picture):
    with pytest.raises(AttributionError, match="nothing to say of a difference"):
        attribute(llava, Example(QUESTION, picture(1)), "raw-attention", Target("red", against="blue"))
    with pytest.raises(AttributionError, match="has no picture"):
        attribute(llava, Example("who wrote the song"), "raw-attention")
