"""Models whose layers look at pictures: who is run with whom, what is encoded once, and what they are refused for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import CROSSING, left_alone
from vlmend import VLM, Edit, Example
from vlmend.edits.states import StateOp
from vlmend.errors import EditError, PartsError
from vlmend.models.batching import of_like_length
from vlmend.models.contrast import Contrast
from vlmend.models.layout import layout
from vlmend.models.trace import capture

REFUSED = "reads pictures by cross-attention: it has no visual tokens"


@pytest.fixture(params=CROSSING)
def vlm(request, tiny):
    yield from left_alone(tiny(request.param))


@pytest.fixture
def examples(picture):
    return [
        Example("what colour is the cup ?", picture(1), "red"),
        Example("who wrote the song", None, "nobody"),
        Example("is there a dog ? say so", picture(2, (90, 20)), "no , there is a cat"),
        Example("what is in <image> and in <image> ?", (picture(1), picture(3)), "red"),
    ]


def test_a_picture_is_one_mark_and_an_answer_looks_where_its_prompt_ends(vlm: VLM, examples):
    rows = vlm.prepare(examples).rows
    assert [int((row.ids_T == vlm.parts.image_token).sum()) for row in rows] == [1, 0, 1, 2]
    assert not any(row.visual_T.any() for row in rows)
    batch = vlm._preparer.batch([rows[0], rows[2]], with_targets=True)
    mask = batch.extras["cross_attention_mask"]
    assert mask.shape[:2] == batch.ids_BT.shape
    assert not mask[batch.mask_BT == 0].any()
    for row, mask_T in zip((rows[0], rows[2]), mask, strict=True):
        answer, last = mask_T[-len(row.target_N) :], row.extras["cross_attention_mask"][-1]
        assert last.any() and torch.equal(answer, last.expand_as(answer))


def test_rows_are_run_with_those_that_have_as_many_pictures(vlm: VLM, examples):
    rows = vlm.prepare(examples).rows
    assert sorted(map(sorted, of_like_length(dict(enumerate(rows)), 8))) == [[0, 2], [1], [3]]


def test_rows_with_and_without_pictures_cannot_be_one_batch(vlm: VLM, examples):
    with pytest.raises(PartsError, match="unlike numbers of pictures cannot be one batch"):
        vlm.logits(vlm.prepare(examples[:2]), 1)


def test_without_a_picture_layers_that_look_at_one_are_not_run(vlm: VLM, examples):
    prepared = vlm.prepare(examples)
    layers = {str(index): layer for index, layer in enumerate(vlm.parts.layers)}
    crossing = [name for name in layers if vlm.parts.crosses(int(name))]
    assert crossing
    for index, ran in ((0, set(layers)), (1, set(layers) - set(crossing))):
        with capture(layers) as calls:
            vlm.run(prepared.take([index]))
        assert {call.name for call in calls} == ran


def test_roles(vlm: VLM):
    """Layers that look at pictures have their modules under the same roles as others, and no attention of their own."""
    for index in range(len(vlm.parts.layers)):
        for role in ("attn", "attn.q", "attn.k", "attn.v", "attn.out", "mlp", "mlp.up", "mlp.down"):
            assert len(vlm.parts.modules([index], [role])) == 1
        assert (vlm.parts.attention(index) is None) == vlm.parts.crosses(index)


@pytest.mark.parametrize("stage", range(9))
def test_a_run_from_any_stage_is_a_whole_run(vlm: VLM, examples, stage):
    prepared = vlm.prepare(examples)
    whole = vlm.run(vlm.prepare(examples)).rows
    for _ in range(2):
        for one, other in zip(vlm.run(prepared, first=stage, keep={8}).rows, whole, strict=True):
            torch.testing.assert_close(one.logits_NV, other.logits_NV, atol=2e-5, rtol=1e-4)


def test_features_are_what_the_connector_gives_now(vlm: VLM, examples):
    prepared = vlm.prepare(examples[:1])
    (seen_SD,) = vlm.features(prepared)
    assert seen_SD is not None and seen_SD.shape[1] == len(vlm.parts.norm.weight)
    before = vlm.run(prepared).rows[0].logits_NV
    names = vlm.weights.named({vlm.parts.paths["connector"]: vlm.parts.connector})
    with vlm.weights.borrowed(names) as parameters:
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.zero_()
        (dark_SD,) = vlm.features(prepared)
        assert not dark_SD.any()
        assert not torch.allclose(vlm.run(prepared).rows[0].logits_NV, before, atol=1e-4)


def test_a_contrast_with_other_pictures(vlm: VLM, examples):
    one, two = examples[0], examples[2]
    asked = vlm.prepare([one, two])
    other = vlm.prepare([replace(one, image=two.image), replace(two, image=one.image)])
    alone = [
        vlm.replies(asked.take([i]), against=Contrast(other.take([i])), max_new_tokens=4)[0].tokens for i in range(2)
    ]
    both = vlm.replies(asked, against=Contrast(other), max_new_tokens=4)
    assert [reply.tokens for reply in both] == alone


def test_what_acts_on_visual_tokens_is_refused(vlm: VLM, examples):
    prepared = vlm.prepare(examples[:1])
    op = StateOp(1, torch.tensor([0]), torch.zeros(1, len(vlm.parts.norm.weight)))
    with pytest.raises(PartsError, match=REFUSED):
        vlm.run(prepared, ops=[op])
    with pytest.raises(EditError, match=REFUSED):
        vlm.apply(Edit(vlm.fingerprint, (op,)))
    with pytest.raises(PartsError, match=REFUSED):
        layout(vlm, examples[0])
    with pytest.raises(PartsError, match=REFUSED):
        _ = prepared.rows[0].visual
    assert not len(vlm.prepare(examples[1:2]).rows[0].visual)
