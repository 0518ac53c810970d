from __future__ import annotations

import pytest
import torch

from conftest import assert_untouched, weights_of
from vlmend import FT, Example
from vlmend.editors.fitting import answer_loss
from vlmend.errors import EditError, PartsError


def test_loss_is_the_mean_over_requests_of_mean_token_nll(llava, picture):
    examples = [Example("what ?", picture(1), "red"), Example("what is there ?", None, "no , there is a cat")]
    output = llava.run(llava.prepare(examples))
    by_hand = []
    for row in output.rows:
        chances = row.logits_NV.softmax(-1)
        by_hand.append(sum(-torch.log(chances[n, token]) for n, token in enumerate(row.target_N)) / len(row.target_N))
    assert float(answer_loss(output)) == pytest.approx(float(sum(by_hand) / 2), rel=1e-5)


def test_gradient_is_that_of_the_library(llava, cases):
    """The weights' gradient is that of transformers' own loss on the same tokens."""
    name, parameter = next(iter(llava.weights.named(llava.parts.modules("last", ["mlp.down"])).items()))
    prepared = llava.prepare([cases[0].request])
    with llava.weights.borrowed([name]):
        answer_loss(llava.run(prepared, grad=True)).backward()
        mine = parameter.grad.clone()
        parameter.grad = None
        row = prepared.rows[0]
        ids = torch.cat([row.ids_T, row.target_N])[None]
        labels = torch.cat([torch.full_like(row.ids_T, -100), row.target_N])[None]
        picture = prepared.pictures[row.picture]
        llava.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, **picture).loss.backward()
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "modules", [("mlp.down",), ("mlp.up", "mlp.down"), ("attn.out",), ("connector",), ("vision",), ("attn", "mlp")]
)
def test_any_modules(vlm, cases, modules):
    edit = FT(layers="last", modules=modules, steps=3, lr=2e-3).fit(vlm, cases[:1])
    prepared = vlm.prepare([cases[0].request])
    before, after = (answer_loss(vlm.run(prepared, e)) for e in (None, edit))
    assert after < before
    assert set(edit.names) == set(vlm.weights.named(vlm.parts.modules("last", modules), matrices_only=True))


def test_norm_limit(llava, cases):
    edit = FT(steps=6, lr=1e-2, norm_limit=1e-3).fit(llava, cases[:1])
    largest = max(float(c.tensors[0].abs().max()) for op in edit.ops for c in op.changes.values())
    assert largest == pytest.approx(1e-3, rel=1e-3)


def test_stops_when_learnt(llava, cases):
    """With a loss that is reached at once nothing is changed."""
    edit = FT(stop_loss=1e9).fit(llava, cases[:1])
    assert all(float(c.norm()) == 0.0 for op in edit.ops for c in op.changes.values())


def test_divergence_is_said_and_undone(llava, cases):
    before = weights_of(llava)
    with pytest.raises(EditError, match="smaller learning rate"):
        FT(lr=3e37, steps=4).fit(llava, cases[:1])
    assert_untouched(llava, before)


def test_a_tied_matrix_is_changed_once(vlm, cases):
    """What is applied is what was fitted, though the model has the matrix under two names."""
    roles = ("head", vlm.parts.paths["embed"])
    named = vlm.weights.named(vlm.parts.modules("last", roles))
    assert len(named) == (1 if vlm.parts.head.weight is vlm.parts.embed.weight else 2)
    edit = FT(modules=roles, steps=2, lr=1e-2).fit(vlm, cases[:1])
    (op,) = edit.ops
    before = {name: one.detach().clone() for name, one in named.items()}
    with vlm.using(edit):
        for name, change in op.changes.items():
            moved = named[name].detach() - before[name]
            torch.testing.assert_close(moved, change.fold(torch.zeros(change.shape)), atol=1e-6, rtol=1e-3)


def test_nothing_to_fit(llava, cases):
    with pytest.raises(EditError, match="no matrix in the modules"):
        FT(modules=("norm",)).fit(llava, cases[:1])


def test_unknown_places(llava, cases):
    with pytest.raises(PartsError, match="there is no layer 99"):
        FT(layers=99).fit(llava, cases[:1])
    with pytest.raises(PartsError, match="no layers named 'top'"):
        FT(layers="top").fit(llava, cases[:1])
    with pytest.raises(PartsError, match=r"no module role 'mlp\.sideways'"):
        FT(modules=("mlp.sideways",)).fit(llava, cases[:1])
