"""A run that starts in the middle gives what a whole run gives."""

from __future__ import annotations

import pytest
import torch

from vlmend import VLM, Edit, Example, WeightOp
from vlmend.edits.states import StateOp
from vlmend.models.trace import capture


@pytest.fixture
def examples(picture):
    return [
        Example("what colour is the cup ?", picture(1), "red"),
        Example("is there a dog in the picture ? say so", picture(2), "no , there is a cat"),
    ]


def late_edit(vlm: VLM, layer: int) -> Edit:
    """Changes of weights and of states from a layer on."""
    names = vlm.weights.named(vlm.parts.modules([layer], ["mlp.down", "attn.v"]), matrices_only=True)
    maker = torch.Generator().manual_seed(layer)
    noise = {name: 0.3 * torch.randn(weight.shape, generator=maker) for name, weight in names.items()}
    width = len(vlm.parts.norm.weight)
    state = StateOp(layer, torch.tensor([0, 3]), torch.randn(2, width, generator=maker))
    return Edit(vlm.fingerprint, (WeightOp.deltas(noise), state))


def weights_only(edit: Edit) -> Edit:
    return Edit(edit.base, tuple(op for op in edit.ops if isinstance(op, WeightOp)))


@pytest.mark.parametrize("layer", [1, 3])
def test_equals_the_whole_run(vlm: VLM, examples, layer):
    edit = late_edit(vlm, layer)
    assert vlm.first_stage(edit.ops) == 2 * layer
    prepared, fresh = vlm.prepare(examples), vlm.prepare(examples)
    vlm.run(prepared, first=2 * layer)
    for given in (None, edit, None):
        with capture({"below": vlm.parts.layers[layer - 1], "above": vlm.parts.layers[layer]}) as calls:
            now = vlm.run(prepared, given, first=2 * layer).rows
        assert [call.name for call in calls] == ["above"]
        for mine, whole in zip(now, vlm.run(fresh, given).rows, strict=True):
            torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-6, rtol=1e-6)


@pytest.fixture(params=[False, True], ids=["whole rows", "from their beginnings"])
def tolerance(request, vlm: VLM, monkeypatch) -> float:
    """How far a run that goes on may be from one that does not: rows that are cut in two round otherwise."""
    if request.param:
        return 1e-5
    monkeypatch.setattr(vlm._begun, "holds", False)
    return 1e-6


def test_begins_at_the_norm(vlm: VLM, examples, tolerance):
    last = len(vlm.parts.layers)
    prepared = vlm.prepare(examples)
    whole = vlm.run(prepared).rows
    for _ in range(2):
        for mine, row in zip(vlm.run(prepared, first=2 * last).rows, whole, strict=True):
            torch.testing.assert_close(mine.logits_NV, row.logits_NV, atol=tolerance, rtol=tolerance)


def test_gradients_are_those_of_the_whole_run(vlm: VLM, examples):
    names = vlm.weights.named(vlm.parts.modules([2], ["mlp.down"]), matrices_only=True)
    prepared = vlm.prepare(examples)
    found = []
    for first in (None, 4, 4, 5, 5):
        with vlm.weights.borrowed(names) as parameters:
            sum(row.logits_NV.logsumexp(-1).sum() for row in vlm.run(prepared, grad=True, first=first).rows).backward()
            found.append([parameter.grad.clone() for parameter in parameters.values()])
    for other in found[1:]:
        for mine, whole in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, whole, atol=1e-5, rtol=1e-4)


def test_a_change_below_is_noticed(llava: VLM, examples):
    prepared = llava.prepare(examples)
    llava.run(prepared, first=6)
    early = late_edit(llava, 1)
    now = llava.run(prepared, early, first=6).rows
    for mine, whole in zip(now, llava.run(llava.prepare(examples), early).rows, strict=True):
        assert torch.equal(mine.logits_NV, whole.logits_NV) or torch.allclose(mine.logits_NV, whole.logits_NV)
    base = llava.run(llava.prepare(examples)).rows
    assert not torch.allclose(now[0].logits_NV, base[0].logits_NV, atol=1e-2)
    again = llava.run(prepared, first=6).rows
    for mine, whole in zip(again, base, strict=True):
        torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-6, rtol=1e-6)


def test_an_edit_taken_back_is_forgotten(llava: VLM, examples):
    """What lies below is known again when edits and fits there are over; no edit is taken for another."""
    prepared = llava.prepare(examples)
    llava.run(prepared, keep=(6, 7))
    early, other = late_edit(llava, 1), late_edit(llava, 0)
    names = llava.weights.named(llava.parts.modules([1], ["mlp.up"]), matrices_only=True)

    def below(first: int) -> int:
        with capture({"first layer": llava.parts.layers[0]}) as calls:
            llava.run(prepared, first=first)
        return len(calls)

    for _ in range(2):
        assert below(6) == below(7) == 0
        with llava.using(weights_only(early)):
            states = [llava.weights.state_before(6)]
        with llava.using(weights_only(other)):
            states.append(llava.weights.state_before(6))
        with llava.weights.borrowed(names) as parameters, torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(1.0)
            states.append(llava.weights.state_before(6))
        assert len({*states, llava.weights.state_before(6)}) == 4
    assert below(6) == below(7) == 0


def test_states_changed_below_are_not_overlooked(llava: VLM, examples):
    """Asked to begin above an edit of states, a run begins where the edit acts; what was kept before stays right."""
    prepared, fresh = llava.prepare(examples), llava.prepare(examples)
    llava.run(prepared, first=6)
    width = len(llava.parts.norm.weight)
    low = Edit(llava.fingerprint, (StateOp(0, torch.tensor([0, 3]), 3.0 * torch.ones(2, width)),))
    for given in (low, None, low):
        for mine, whole in zip(llava.run(prepared, given, first=6).rows, llava.run(fresh, given).rows, strict=True):
            torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-6, rtol=1e-6)
    moved = llava.run(fresh, low).rows[0].logits_NV - llava.run(fresh).rows[0].logits_NV
    assert float(moved.abs().max()) > 1e-2


def test_capped_logits_take_the_whole_way(llava: VLM, examples, monkeypatch):
    """Where norm and head are not all that follows the layers, nothing is started in the middle."""
    plain = llava._feeder.logits
    monkeypatch.setattr(llava._feeder, "logits", lambda *given: torch.tanh(plain(*given) / 5.0) * 5.0)
    monkeypatch.setattr(llava._begun, "holds", None)
    prepared = llava.prepare(examples)
    for _ in range(2):
        for mine in llava.run(prepared, first=6).rows:
            assert float(mine.logits_NV.abs().max()) < 5.0


def test_begins_behind_the_attention(vlm: VLM, examples, tolerance):
    """Feed-forward weights are changed: attention is not run again, and of a last layer only what is asked for."""
    count = len(vlm.parts.layers)
    for layer in (1, count - 1):
        names = vlm.weights.named(vlm.parts.modules([layer], ["mlp.down", "mlp.up"]), matrices_only=True)
        maker = torch.Generator().manual_seed(layer)
        edit = Edit(
            vlm.fingerprint,
            (WeightOp.deltas({name: 0.3 * torch.randn(one.shape, generator=maker) for name, one in names.items()}),),
        )
        stage = vlm.first_stage(edit.ops)
        assert stage == 2 * layer + 1
        prepared, fresh = vlm.prepare(examples), vlm.prepare(examples)
        vlm.run(prepared, first=stage)
        queries = vlm.weights.linears(vlm.parts.modules([layer], ["attn"]))
        for given in (None, edit, None):
            with capture({**queries, "layer": vlm.parts.layers[layer]}) as calls:
                now = vlm.run(prepared, given, first=stage).rows
            assert [call.name for call in calls] == ["layer"]
            if layer == count - 1:
                assert calls[0].input.shape[1] == max(len(row.target_N) for row in prepared.rows) + 1
            for mine, whole in zip(now, vlm.run(fresh, given).rows, strict=True):
                torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=tolerance, rtol=tolerance)


def test_one_run_keeps_several_stages(vlm: VLM, examples):
    prepared = vlm.prepare(examples)
    whole = vlm.run(prepared, keep=(0, 2, 5, 6)).rows
    for stage in (2, 5, 6):
        with capture({"embed": vlm.parts.embed}) as calls:
            now = vlm.run(prepared, first=stage).rows
        assert not calls
        for mine, row in zip(now, whole, strict=True):
            torch.testing.assert_close(mine.logits_NV, row.logits_NV, atol=1e-6, rtol=1e-6)


def test_a_layer_that_runs_its_feed_forward_part_first_is_run_whole(llava: VLM, examples, monkeypatch):
    """Its attention depends on what is changed, so what it returned before must not be used again."""
    layer = llava.parts.layers[2]

    def turned(hidden, *given, **named):
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return hidden + layer.self_attn(layer.input_layernorm(hidden), *given, **named)[0]

    monkeypatch.setattr(layer, "forward", turned)
    names = llava.weights.named(llava.parts.modules([2], ["mlp.down"]), matrices_only=True)
    edit = Edit(llava.fingerprint, (WeightOp.deltas({name: torch.ones(one.shape) for name, one in names.items()}),))
    prepared, fresh = llava.prepare(examples), llava.prepare(examples)
    llava.run(prepared, first=5)
    for mine, whole in zip(llava.run(prepared, edit, first=5).rows, llava.run(fresh, edit).rows, strict=True):
        torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-6, rtol=1e-6)


def test_stages(vlm: VLM):
    weights, count = vlm.weights, len(vlm.parts.layers)
    for layer in (0, count - 1):
        assert weights.stage(weights.named(vlm.parts.modules([layer], ["mlp", "attn"]))) == 2 * layer
        assert weights.stage(weights.named(vlm.parts.modules([layer], ["mlp"]))) == 2 * layer + 1
    assert weights.stage(weights.named(vlm.parts.modules("all", ["norm"]))) == 2 * count
    assert weights.stage(weights.named(vlm.parts.modules("all", ["connector"]))) == 0
    tied = vlm.parts.head.weight is vlm.parts.embed.weight
    assert weights.stage(weights.named(vlm.parts.modules("all", ["head"]))) == (0 if tied else 2 * count)
    assert vlm.first_stage([]) == 2 * count
