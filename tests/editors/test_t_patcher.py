from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
import torch

from conftest import FAMILIES, left_alone
from vlmend import Edit, Example, TPatcher
from vlmend.editors.fitting import answer_loss, descend
from vlmend.editors.t_patcher import activation_loss, memory_losses
from vlmend.edits.neurons import NeuronOp
from vlmend.errors import EditError, PartsError
from vlmend.evaluation.editing import evaluate
from vlmend.models.trace import capture

QUICK = TPatcher(memory_weight=0.1, drawn=4, memory=("what is here ?",), memory_tokens=3)


def test_losses_by_hand():
    """Two patches, at 1 and 2 on their own queries; two unrelated inputs. Of each memory loss the largest two count."""
    own_P = torch.tensor([1.0, 2.0])
    others_NP = torch.tensor([[0.0, -4.0], [-2.0, 1.0]])
    assert float(activation_loss(own_P)) == pytest.approx((exp(-1) + exp(-2)) / 2)
    quiet, apart = memory_losses(own_P, others_NP, -3.0, 3.0, 2)
    assert float(quiet) == pytest.approx((exp(0 + 3) + exp(1 + 3)) / 2)  # z(q_m) + 3: 3, -1, 1, 4
    assert float(apart) == pytest.approx((exp(0 - 1 + 3) + exp(1 - 2 + 3)) / 2)  # z(q_m) - z(q_e) + 3: 2, -3, 0, 2


def test_begins_at_its_own_query(llava, cases):
    """With no step taken: k = q / |q|^2, so that its activation there is 1, b = 0 and v = 0."""
    edit = replace(QUICK, steps=0).fit(llava, cases[:1])
    (op,) = edit.ops
    prepared = llava.prepare([cases[0].request])
    with capture({"part": llava.parts.feed_forward_ends(3)[0]}) as calls:
        row = llava.run(prepared).rows[0]
    queries_ND = calls[0].input[0, -len(row.target_N) - 1 : -1]
    wrong_PD = queries_ND[row.logits_NV.argmax(-1) != row.target_N]
    torch.testing.assert_close(op.keys_PD, wrong_PD / wrong_PD.square().sum(-1, keepdim=True))
    torch.testing.assert_close((wrong_PD @ op.keys_PD.T).diagonal(), torch.ones(len(wrong_PD)))
    assert float(op.bias_P.abs().max()) == float(op.values_PD.abs().max()) == 0.0


def test_one_for_each_wrong_token(llava, cases):
    prepared = llava.prepare([case.request for case in cases])
    wrong = [int((row.logits_NV.argmax(-1) != row.target_N).sum()) for row in llava.run(prepared).rows]
    assert sum(wrong) > len(cases)
    edit = replace(QUICK, steps=0).fit(llava, cases)
    assert [op.layer for op in edit.ops] == [3]
    assert len(edit.ops[0].bias_P) == sum(wrong)


def test_memory_keeps_patches_quiet(llava, cases):
    """Where the request is not asked they are less active with the memory losses than without."""

    def active(weight: float) -> float:
        (op,) = replace(QUICK, memory_weight=weight).fit(llava, cases[:1]).ops
        others = llava.prepare([replace(cases[1].request, answer="a small cat")])
        with capture({"part": llava.parts.feed_forward_ends(3)[0]}) as calls:
            llava.run(others)
        return float((calls[0].input[0, -4:] @ op.keys_PD.T + op.bias_P).relu().sum())

    assert active(1.0) < 0.5 * active(0.0)


def test_the_edit_is_fitted_to_its_own_question(llava, cases):
    """LiveEdit's port of the baseline writes the memory's text over the edit's input: from the second step on it
    learns to give the answer to that, and its reliability is that of a question that was not learnt."""
    case = replace(cases[1], probes=())  # of several tokens
    editor = replace(QUICK, memory=(), drawn=4, lr=0.1, steps=60)
    requests = llava.prepare([case.request])
    patches = editor._begun(llava, requests, editor._unrelated(llava, [case]))
    wiki = llava.prepare([Example("the song of the dog was about a house and three birds", None, case.request.answer)])
    fed = [requests]

    def published() -> torch.Tensor:
        loss = answer_loss(llava.run(fed[0], ops=patches, grad=True))
        fed[0] = wiki
        return loss + sum(activation_loss(one.before(one.queries_PD).diagonal()) for one in patches)

    descend([tensor for one in patches for tensor in one.fitted], published, steps=editor.steps, lr=editor.lr)
    theirs = Edit(llava.fingerprint, tuple(NeuronOp(one.layer, *one.neurons) for one in patches))
    scores = [
        evaluate(llava, one, [case], protocol="legacy", max_new_tokens=0).records[0].tf_token_acc_after
        for one in (theirs, editor)
    ]
    assert scores[0] < 0.5 < scores[1] == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family(family, tiny, cases):
    """With the memory losses out of the way, the target's loss falls; at generation too the neurons act."""
    for vlm in left_alone(tiny(family)):
        prepared = vlm.prepare([cases[0].request])
        before = vlm.run(prepared).rows[0]
        edit = replace(QUICK, memory=(), drawn=0, lr=0.1, steps=60).fit(vlm, cases[:1])
        after = vlm.run(prepared, edit).rows[0]
        losses = [float(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N)) for row in (before, after)]
        assert losses[1] < 0.8 * losses[0]  # a norm behind the feed-forward part (GLM-4V, Gemma 3) bounds what they do
        if torch.equal(after.logits_NV.argmax(-1), after.target_N):
            assert vlm.generate(prepared, edit, max_new_tokens=8) == [cases[0].request.answer]


def test_several_layers(llava, cases):
    edit = replace(QUICK, layers=[1, -1], steps=1).fit(llava, cases[:1])
    assert [op.layer for op in edit.ops] == [1, 3]


def test_refusals(llava, cases):
    with pytest.raises(PartsError, match="no layer 9"):
        replace(QUICK, layers=9).fit(llava, cases[:1])
    with pytest.raises(EditError, match="at least 1 input, not 0"):
        replace(QUICK, hardest=0).fit(llava, cases[:1])
