"""What the published evaluators get wrong: what each defect does to a score, and that it is not done here.

MMEdit and EasyEdit (arXiv 2310.08475, commit 14cea82), VisEdit (commit 26419f2). Defects of editors are tested with the
editors; those that raise errors where ours do not (records of another type, missing keys) have nothing to measure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from vlmend import FT, VLM, WeightOp
from vlmend.editors.base import edit_of
from vlmend.edits.routes import AnswerOp
from vlmend.evaluation.editing import evaluate
from vlmend.evaluation.protocols import DEFAULT, LEGACY, VISEDIT
from vlmend.models.trace import capture

SHORT = {"max_new_tokens": 6}
GENTLE = FT(steps=15, lr=5e-3)


@dataclass(frozen=True)
class Wreck:
    """Noise on every layer's MLP: nothing that must stay does."""

    name: ClassVar[str] = "wreck"

    def fit(self, vlm, cases):
        maker = torch.Generator().manual_seed(len(cases[0].request.question))
        names = vlm.weights.named(vlm.parts.modules("all", ["mlp.down"]), matrices_only=True)
        noise = {name: 2.0 * torch.randn(weight.shape, generator=maker) for name, weight in names.items()}
        return edit_of(self, vlm, cases, [WeightOp.deltas(noise)])


def locality(proof):
    return [record for record in proof.records if record.kind.endswith("locality")]


def mean(values):
    return sum(values) / len(values)


def test_before_is_asked_before_the_edit(llava: VLM, cases):
    """`MultimodalEditor.edit` asks "before" of edited weights: locality is whole whatever was done."""
    edit = Wreck().fit(llava, cases)
    proof = evaluate(llava, edit, cases, **SHORT)
    with llava.using(edit):
        late = evaluate(llava, Nothing(), cases, **SHORT)  # before and after are both of the edited model
    assert mean([record.free_exact_after for record in locality(late)]) == 1.0
    assert mean([record.free_exact_after for record in locality(proof)]) < 0.5


@dataclass(frozen=True)
class Nothing:
    name: ClassVar[str] = "nothing"

    def fit(self, vlm, cases):
        return edit_of(self, vlm, cases, [])


def test_edits_do_not_add_up_over_cases(llava: VLM, cases):
    """`edit_dataset` never takes an edit back: the second case is scored with the first one's edit in force."""
    some = [replace(cases[0], id="first"), replace(cases[1], id="second")]
    both = [record for record in evaluate(llava, Wreck(), some, **SHORT).records if record.case == "second"]
    alone = list(evaluate(llava, Wreck(), some[1:], **SHORT).records)
    assert both == alone
    with llava.using(Wreck().fit(llava, some[:1])):
        piled = list(evaluate(llava, Wreck(), some[1:], **SHORT).records)
    assert [record.before for record in piled] != [record.before for record in alone]


def test_one_score_whatever_is_called(llava: VLM, cases):
    """EasyEdit's trainer counts whole answers or tokens by a setting that its editor does not know: tables mix both."""
    edit = GENTLE.fit(llava, cases[:1])
    by_editor = evaluate(llava, GENTLE, cases[:1], **SHORT)
    by_edit = evaluate(llava, edit, cases[:1], **SHORT)
    unlike = {"kl": None}
    for one, other in zip(by_editor.records, by_edit.records, strict=True):
        assert replace(one, **unlike) == replace(other, **unlike)
    partly = replace(by_edit.records[0], tf_token_acc_after=0.5, tf_exact_after=0.0)
    assert LEGACY.score(partly)[1] == 0.5  # tokens, always, and whole answers under a name of their own


def test_logits_are_compared_with_the_next_token(llava: VLM, cases):
    """For Hugging Face models EasyEdit compares the logits at a token with that same token."""
    case = replace(cases[1], probes=())
    edit = FT(steps=40, lr=2e-2, layers="all").fit(llava, [case])
    record = evaluate(llava, edit, [case], **SHORT).records[0]
    prepared = llava.prepare([case.request])
    with llava.using(edit), capture({"head": llava.parts.head}) as calls:
        llava.logits(prepared, keep=64)
    ids = torch.cat([prepared.rows[0].ids_T, prepared.rows[0].target_N])
    likeliest = calls[-1].output[0].argmax(-1)[-len(ids) :]
    count = prepared.rows[0].answer_length
    last = len(ids) - (len(prepared.rows[0].target_N) - count)
    shifted = likeliest[last - count - 1 : last - 1] == ids[last - count : last]
    unshifted = likeliest[last - count : last] == ids[last - count : last]
    assert record.tf_token_acc_after == pytest.approx(float(shifted.float().mean()))
    assert record.tf_token_acc_after == 1.0  # it was taught to say so
    assert float(unshifted.float().mean()) < 1.0


def test_locality_counts_the_answers_positions_alone(llava: VLM, cases):
    """EasyEdit's T-Loc and M-Loc count the prompt, the picture's slots and padding too."""
    for record in locality(evaluate(llava, Wreck(), cases, protocol="legacy", **SHORT)):
        (case,) = [case for case in cases if case.id == record.case]
        (example,) = [p.example for p in case.probes if (p.kind, p.example.question) == (record.kind, record.question)]
        row = llava.prepare([example]).rows[0]
        assert len(record.top_before) == len(record.top_after) == row.answer_length
        assert row.answer_length < len(row.ids_T)


def test_a_rank_that_shifts_is_not_all_that_is_said_of_it(llava: VLM, cases):
    """M-Loc compares the ten likeliest rank by rank: one token put in front scores 0 although nine of ten are there."""
    (record, *_) = [one for one in evaluate(llava, Nothing(), cases, **SHORT).records if one.kind == "image_locality"]
    before = (tuple(range(10)),)
    moved = replace(record, top_before=before, top_after=((99, *range(9)),))
    assert LEGACY.score(moved)[1] == 0.0
    assert len({*moved.top_before[0]} & {*moved.top_after[0]}) == 9
    assert DEFAULT.score(moved)[1] == record.free_exact_after  # what is answered is measured by itself
    assert moved.kl is not None


def test_questions_are_put_anew_each_time(llava: VLM, cases):
    """`edit_dataset(template=...)` writes the template into the data: a second pass asks it twice."""
    before = [replace(case) for case in cases]
    first, second = (evaluate(llava, Nothing(), cases, protocol=VISEDIT, max_new_tokens=0) for _ in range(2))
    assert cases == before
    assert first.records == second.records
    assert all(record.question.count("The answer is:") <= 1 for record in second.records)


def test_what_the_model_said_is_what_it_said(llava: VLM, cases):
    """VisEdit's log of single edits has the right answer where the model's own before the edit should stand."""
    (record, *_) = evaluate(llava, GENTLE, cases[:1], **SHORT).records
    assert record.before == llava.answer(cases[0].request.image, cases[0].request.question, max_new_tokens=6)
    assert record.before != record.target


def test_generality_is_not_agreement_of_the_edited_model_with_itself(llava: VLM, cases):
    """The paper's T-Gen compares two answers of the edited model: one that says the same to all has it whole."""
    proof = evaluate(llava, Constant(), cases, **SHORT)
    generality = [record for record in proof.records if record.kind == "text_generality"]
    requests = {record.case: record for record in proof.records if record.kind == "reliability"}
    assert all(record.after == requests[record.case].after for record in generality)  # agrees with itself
    assert mean([record.free_exact_after for record in generality]) == 0.0


@dataclass(frozen=True)
class Constant:
    """Says the same, and wrong, to everything."""

    name: ClassVar[str] = "constant"

    def fit(self, vlm, cases):
        return edit_of(self, vlm, cases, [AnswerOp("some other words")])
