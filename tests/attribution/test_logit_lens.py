from __future__ import annotations

import pytest
import torch

from vlmend import Example, Target, attribute
from vlmend.attribution.target import strands
from vlmend.errors import AttributionError

QUESTION = "what colour is the cup ?"


def test_the_last_layer_says_what_the_model_says(vlm, picture):
    """At the last layer the lens is the model's own head, at every visual token."""
    example = Example(QUESTION, picture(1))
    found = attribute(vlm, example, "logit-lens", Target("red", token=0), top=2)
    (strand,) = strands(vlm, example, Target("red", token=0))
    clean = strand.read(vlm, {"norm": vlm.parts.norm})
    normed_SD = clean.of("norm").output[0, strand.visual]
    wanted_SV = vlm.parts.head(normed_SD).float().log_softmax(-1)
    torch.testing.assert_close(found.scores[-1], wanted_SV[:, int(strand.tokens_N)], rtol=1e-4, atol=1e-5)
    best = [vlm.tokenizer.decode([token]) for token in wanted_SV.argmax(-1).tolist()]
    assert [words[0] for words in found.details["words"][-1]] == best
    assert all(len(words) == 2 for layer in found.details["words"] for words in layer)
    assert not torch.allclose(found.scores[0], found.scores[-1])
    if "place" in found.axes:
        assert found.at(layer=1).heat().shape == (36, 44)
    else:
        assert found.axes["query"] == tuple(range(len(strand.visual)))


def test_without_a_picture(llava):
    with pytest.raises(AttributionError, match="has no picture"):
        attribute(llava, Example("who wrote the song"), "logit-lens")
