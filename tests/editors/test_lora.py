from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmend import LoRA
from vlmend.errors import EditError, PartsError

QUICK = LoRA(lr=2e-2, steps=5, stop_loss=0.0)


def test_changes_are_of_the_rank_asked_for(vlm, cases):
    edit = replace(QUICK, layers="last", modules=("mlp.down", "attn.q"), rank=3).fit(vlm, cases[:1])
    assert set(edit.names) == set(
        vlm.weights.named(vlm.parts.modules("last", ["mlp.down", "attn.q"]), matrices_only=True)
    )
    for op in edit.ops:
        for name, change in op.changes.items():
            assert change.form == "low_rank"
            delta = change.fold(torch.zeros(change.shape))
            assert int(torch.linalg.matrix_rank(delta)) <= 3
            assert delta.shape == dict(vlm.weights.base())[name].shape


def test_folded_weights_do_what_the_fit_saw(llava, cases):
    """The first step leaves A as it was drawn, so the edit after n steps continues one after fewer: the loss falls."""
    prepared = llava.prepare([cases[0].request])

    def loss(steps: int) -> float:
        row = llava.run(prepared, replace(QUICK, steps=steps).fit(llava, cases[:1])).rows[0]
        return float(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N))

    base = llava.run(prepared).rows[0]
    assert loss(0) == pytest.approx(float(torch.nn.functional.cross_entropy(base.logits_NV, base.target_N)), abs=1e-6)
    assert loss(30) < loss(5) < loss(0)


@pytest.mark.parametrize("modules", ["connector", "vision"])
def test_outside_the_decoder(llava, cases, modules):
    """Gradients reach factors beside layers that pictures pass before."""
    edit = replace(QUICK, modules=(modules,)).fit(llava, cases[:1])
    prepared = llava.prepare([cases[0].request])
    before, after = (llava.run(prepared, one).rows[0] for one in (None, edit))
    losses = [float(torch.nn.functional.cross_entropy(one.logits_NV, one.target_N)) for one in (before, after)]
    assert losses[1] < losses[0]


def test_the_seed_draws(llava, cases):
    one, two = (replace(QUICK, seed=seed).fit(llava, cases[:1]) for seed in (0, 1))
    assert one.id != two.id
    assert one.settings["seed"] == 0


def test_a_weight_of_two_modules_is_refused(vlm, cases):
    """Beside the head alone a change would not be that of a matrix which is the embedding too."""
    if vlm.parts.head.weight is not vlm.parts.embed.weight:
        pytest.skip("not tied")
    with pytest.raises(EditError, match="is another module's too"):
        replace(QUICK, modules=("head",)).fit(vlm, cases[:1])


def test_refusals(llava, cases):
    with pytest.raises(EditError, match="no linear layer"):
        replace(QUICK, modules=("norm",)).fit(llava, cases[:1])
    with pytest.raises(PartsError, match="no module role 'mouth'"):
        replace(QUICK, modules=("mouth",)).fit(llava, cases[:1])
    with pytest.raises(EditError, match="diverged"):
        replace(QUICK, lr=1e30, steps=3).fit(llava, cases[:1])
