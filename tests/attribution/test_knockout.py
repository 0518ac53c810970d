from __future__ import annotations

import pytest
import torch

from vlmend import Example, Target, attribute
from vlmend.attribution.groups import groups_of
from vlmend.attribution.target import strands
from vlmend.errors import AttributionError, PartsError
from vlmend.models.attention import blocked
from vlmend.models.trace import altered

QUESTION = "what colour is the cup ?"


def test_blocked_words_do_not_see_the_picture(vlm, picture):
    """With all words blocked in all layers the answer does not depend on the visual states at all; without, it does."""
    (strand,) = strands(vlm, Example(QUESTION, picture(1)), Target("red"))
    words = torch.cat([positions for name, positions in groups_of(strand).items() if name != "picture"])
    block_1TT = torch.zeros(1, strand.length, strand.length, dtype=torch.bool)
    block_1TT[0, words[:, None], strand.visual[None]] = True
    other = torch.randn(len(strand.visual), vlm.parts.norm.weight.shape[0])

    def changed(states_BTD):
        return states_BTD.index_copy(1, strand.visual, other[None])

    def twice():
        before = strand.read(vlm).logits_NV[strand.picks_N]
        with altered(vlm.parts.layers[0], changed):
            return before, strand.read(vlm).logits_NV[strand.picks_N]

    seeing, changed_seeing = twice()
    with blocked(vlm.parts, tuple(range(len(vlm.parts.layers))), block_1TT):
        blind, changed_blind = twice()
    assert (seeing - changed_seeing).abs().max() > 1e-3
    torch.testing.assert_close(blind, changed_blind, rtol=0, atol=1e-5)
    lost = float(strand.value(seeing, "log_prob") - strand.value(blind, "log_prob"))
    whole = attribute(vlm, Example(QUESTION, picture(1)), "knockout", Target("red"), window=99, layers=[1])
    assert float(whole.at(layer=1, group="words").scores) == pytest.approx(lost, abs=1e-4)


def test_the_rows_of_a_layer(llava, picture):
    """Words before the picture never saw it; blocking the last layer matters to the last token only."""
    found = attribute(llava, Example(QUESTION, picture(1)), "knockout", Target("red", token=0), window=1)
    assert found.scores.shape == (len(llava.parts.layers), len(found.axes["group"]))
    assert found.at(group="before").scores.abs().max() < 1e-5
    last = found.at(layer=len(llava.parts.layers) - 1)
    assert last.at(group="after").scores.abs() < 1e-5
    assert last.at(group="last").scores.abs() > 1e-4
    torch.testing.assert_close(last.at(group="last").scores, last.at(group="words").scores, rtol=1e-3, atol=1e-5)


def test_eager_attention(llava, picture):
    """Masks that are added do as well as masks that are asked."""
    example = Example(QUESTION, picture(1))
    before = attribute(llava, example, "knockout", Target("red"))
    config = llava.model.config
    kept = config.get_text_config()._attn_implementation
    try:
        llava.model.set_attn_implementation("eager")
        after = attribute(llava, example, "knockout", Target("red"))
    finally:
        llava.model.set_attn_implementation(kept)
    torch.testing.assert_close(before.scores, after.scores, rtol=1e-3, atol=1e-5)


def test_what_makes_no_sense_is_refused(llava, picture):
    with pytest.raises(AttributionError, match="has no picture"):
        attribute(llava, Example("who wrote the song"), "knockout")
    with pytest.raises(PartsError, match="no layer 11"):
        attribute(llava, Example("what ?", picture(1)), "knockout", layers=[11])
