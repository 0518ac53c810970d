"""Gradients in factored form are the gradients, wherever the layers stand, and what is made of them acts as factors."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from vlmend import Edit, Example
from vlmend.editors.fitting import answer_loss
from vlmend.editors.gradients import Gradient, gradients_of, in_force, low_rank_op
from vlmend.errors import EditError
from vlmend.models import batching
from vlmend.models.begun import Begun


def of_one(vlm, prepared, linears):
    ((_, found),) = gradients_of(vlm, prepared, linears, ["one"])
    return found


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def test_by_hand():
    """A token with no input, or no gradient, adds nothing."""
    one = Gradient.of(torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0], [5.0], [0.0]]))
    assert one.inputs_TI.tolist() == [[1.0, 2.0]] and one.deltas_TO.tolist() == [[1.0]]


@pytest.mark.parametrize("modules", [("mlp",), ("attn", "mlp.down", "connector")])
def test_they_are_the_weights_gradients(vlm, cases, modules):
    linears = vlm.weights.linears(vlm.parts.modules([1, 3], modules))
    prepared = vlm.prepare([cases[0].request])
    found = of_one(vlm, prepared, linears)
    with vlm.weights.borrowed(linears) as parameters:
        answer_loss(vlm.run(vlm.prepare([cases[0].request]), grad=True)).backward()
        wanted = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    assert found.keys() == wanted.keys()
    for name, one in found.items():
        close(one.deltas_TO.T @ one.inputs_TI, wanted[name])
    again = of_one(vlm, prepared, linears)  # from the kept states on
    assert all(torch.allclose(one.deltas_TO, again[name].deltas_TO, atol=1e-6) for name, one in found.items())


def test_only_what_predicts_is_kept_of_the_last_layer(llava, cases):
    last, before = (llava.weights.linears(llava.parts.modules([layer], ["mlp.down"])) for layer in (3, 2))
    prepared = llava.prepare([cases[1].request])
    (short,), (long,) = (of_one(llava, prepared, some).values() for some in (last, before))
    row = prepared.rows[0]
    assert len(short.inputs_TI) == len(row.target_N)
    assert len(long.inputs_TI) == len(row.ids_T) + len(row.target_N) - 1


def test_factors_in_force_are_the_edit(vlm, cases):
    """Beside the layers, and as an operation folded into the weights, they make the same logits."""
    linears = vlm.weights.linears(vlm.parts.modules([2], ["mlp", "connector"]))
    prepared = vlm.prepare([cases[0].request])
    changes = {name: (-0.1 * one.deltas_TO.T, one.inputs_TI) for name, one in of_one(vlm, prepared, linears).items()}
    edit = Edit(vlm.fingerprint, (low_rank_op(linears, [changes]),))
    with in_force(linears, changes):
        beside = vlm.run(prepared).rows[0].logits_NV
    folded = vlm.run(prepared, edit).rows[0].logits_NV
    close(beside, folded)
    assert not torch.allclose(folded, vlm.run(prepared).rows[0].logits_NV, atol=1e-4)


def test_refusals(llava, cases, picture):
    connector = llava.weights.linears(llava.parts.modules([0], ["connector"]))
    blind = llava.prepare([replace(cases[0].request, image=None)])
    with pytest.raises(EditError, match="none of the layers to be edited has a part in the answer of case 'case-0'"):
        list(gradients_of(llava, blind, connector, ["case-0"]))
    broken = {name: (torch.full((linear.out_features, 1), torch.nan), torch.ones(1, linear.in_features))
              for name, linear in connector.items()}  # fmt: skip
    with pytest.raises(EditError, match=r"the change of '.*' is not finite"):
        low_rank_op(connector, [broken])


@pytest.mark.parametrize(
    ("name", "modules"), [("llava", "connector"), ("llava", "vision"), ("blip2", "qformer.*.value")]
)
def test_what_changes_the_encoder_is_seen(tiny, picture, name, modules):
    """Features of pictures are not kept while something acts on what encodes them."""
    vlm = tiny(name)
    linears = vlm.weights.linears(vlm.parts.modules([0], [modules]))
    prepared = vlm.prepare([Example("what ?", picture(1), "red")])
    before = vlm.run(prepared).rows[0].logits_NV
    draw = torch.Generator().manual_seed(0)
    changes = {
        name: (torch.randn(one.out_features, 1, generator=draw), torch.randn(1, one.in_features, generator=draw))
        for name, one in linears.items()
    }
    with in_force(linears, changes):
        assert not torch.allclose(vlm.run(prepared).rows[0].logits_NV, before, atol=1e-4)
    assert torch.equal(vlm.run(prepared).rows[0].logits_NV, before)


@pytest.mark.parametrize("layers", [[1, 2], [3]])
def test_rows_run_together_have_each_its_own(vlm, cases, layers):
    """In batches as one by one, and in the last layer, which is run from what was kept of it."""
    linears = vlm.weights.linears(vlm.parts.modules(layers, ("attn", "mlp")))
    asked = [case.request for case in cases] + [replace(cases[0].request, image=None, question="who is it ?")]
    names = [str(index) for index in range(len(asked))]
    together = dict(gradients_of(vlm, vlm.prepare(asked), linears, names))
    assert sorted(together) == list(range(len(asked)))
    prepared = vlm.prepare(asked)
    for index in range(len(asked)):
        alone = of_one(vlm, prepared.take([index]), linears)
        assert alone.keys() == together[index].keys()
        for name, one in alone.items():
            close(together[index][name].deltas_TO.T @ together[index][name].inputs_TI, one.deltas_TO.T @ one.inputs_TI)


def test_rows_of_one_picture_share_what_is_run_of_it(vlm, cases, monkeypatch):
    """Up to the layer whose gradients are wanted, within a comparison and without; each row has its own."""
    monkeypatch.setattr(batching, "_PADDING", 8)
    linears = vlm.weights.linears(vlm.parts.modules([2], ("mlp.down",)))
    told = ("who is it ?", "what colour is it ?", "is it red ?")
    asked = [replace(cases[0].request, question=question) for question in told]
    alone = [of_one(vlm, vlm.prepare([one]), linears) for one in asked]
    shared: list[bool] = []
    lower = Begun.lower

    def seen(begun, part, *args, **named):
        found = lower(begun, part, *args, **named)
        shared.extend([found is not None] * (len(part.rows) > 1))
        return found

    monkeypatch.setattr(Begun, "lower", seen)
    for context in (nullcontext(), vlm.sharing()):
        with context:
            together = dict(gradients_of(vlm, vlm.prepare(asked), linears, list(told)))
        for index, wanted in enumerate(alone):
            for name, one in wanted.items():
                mine = together[index][name]
                close(mine.deltas_TO.T @ mine.inputs_TI, one.deltas_TO.T @ one.inputs_TI)
    assert shared == [True, True]


def test_rows_are_run_together(llava, cases):
    """One forward run for all, where the layers are the decoder's."""
    linears = llava.weights.linears(llava.parts.modules([2], ["mlp.down"]))
    asked = [replace(case.request, image=None) for case in cases[:2]]
    runs: list[int] = []
    handle = llava.parts.layers[0].register_forward_hook(lambda _m, _a, output: runs.append(1))
    try:
        found = dict(gradients_of(llava, llava.prepare(asked), linears, ["a", "b"]))
    finally:
        handle.remove()
    assert len(found) == 2 and len(runs) == 1
