"""What Learning to Edit promises beyond the contract, and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlmend import Edit, EditCase, Example, Probe, WeightOp
from vlmend.editors.lte import LTE, descriptor
from vlmend.editors.lte_training import LTELesson, LTETraining
from vlmend.editors.shelf import Trained
from vlmend.editors.training import train
from vlmend.edits.prompts import RecallOp
from vlmend.errors import EditError, EditFormatError, PartsError

TINY = LTETraining(layers=[1, 2], rank=2, steps=4, check_every=2, batch=2, held_out=0.3, lr=1e-2, keeps=(
    "text_locality", "image_locality"
))  # fmt: skip


@pytest.fixture(scope="module")
def weights(tiny, cases, tmp_path_factory) -> str:
    """A folder of factors for the tiny Llava, hardly trained, and made large."""
    folder = tmp_path_factory.mktemp("lte")
    trained = train(TINY, tiny("llava"), cases, folder)
    loud = {name: torch.full_like(one, 0.02) if "left" in name else one for name, one in trained.tensors.items()}
    replace(trained, tensors=loud).save(folder / "loud")
    return str(folder / "loud")


def logits(vlm, example: Example, edit: Edit | None) -> torch.Tensor:
    return vlm.run(vlm.prepare([replace(example, answer="red")]), edit).rows[0].logits_NV


def test_an_edit_is_what_was_taught_and_what_it_is_told(llava, cases, weights):
    edit = LTE(weights).fit(llava, cases[:1])
    taught, told = edit.ops
    assert isinstance(taught, WeightOp) and isinstance(told, RecallOp)
    assert told.texts == ("[Updated Information] what is at place 0 ? red\n",)
    assert told.lead == "[Query] "
    other = Example("who wrote the song ?")
    written = replace(other, question=told.texts[0] + told.lead + other.question)
    alone = replace(edit, ops=(taught,))
    assert not torch.allclose(logits(llava, other, None), logits(llava, other, alone), atol=1e-3)
    torch.testing.assert_close(logits(llava, other, edit), logits(llava, written, alone), atol=1e-5, rtol=1e-5)


def test_of_several_edits_the_likest_are_told(llava, cases, weights):
    edit = LTE(weights, top=1).fit(llava, cases)
    assert isinstance(edit.ops[1], RecallOp)
    with llava.using(edit):
        rows = llava.prepare([case.request for case in cases]).rows
    for case, row in zip(cases, rows, strict=True):
        assert row.before == f"[Updated Information] {case.request.question} {case.request.answer}\n[Query] "
    with llava.using(LTE(weights).fit(llava, cases)):
        (row,) = llava.prepare([cases[0].request]).rows
    assert row.before.count("[Updated Information]") == 3
    assert row.before.endswith("what is at place 0 ? red\n[Query] ")


def test_what_is_little_like_is_not_told(llava, cases, weights):
    edit = LTE(weights, least=1.99).fit(llava, cases[:1])
    with llava.using(edit):
        rows = llava.prepare([cases[0].request, Example("who wrote the song ?")]).rows
    assert [bool(row.before) for row in rows] == [True, False]


def test_edits_share_what_was_taught(llava, cases, weights):
    """Two of them: the weights are those of one, and both are told of."""
    editor = LTE(weights)
    one, two = (editor.fit(llava, [case]) for case in cases[:2])
    assert one.ops[0] is two.ops[0]
    assert [op.kind for op in (one + two).ops] == ["weight", "recall", "recall"]
    with llava.using(one):
        before = {name: llava.model.state_dict()[name].clone() for name in llava.model.state_dict()}
        with llava.using(two):
            now = llava.model.state_dict()
            assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
            assert llava.prepare([cases[0].request]).rows[0].before.count("[Updated Information]") == 2


def test_pictures_in_a_question_are_not_told(cases):
    asked = replace(cases[0].request, question="<image> what is left of <image> ?")
    case = replace(cases[0], request=asked)
    assert descriptor("{question} {answer}.", case) == "what is left of ? red."


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"layers": [0, 1]}, EditError, "above the decoder's first layer"),
        ({"modules": ("connector",)}, EditError, "above the decoder's first layer"),
        ({"layers": 9}, PartsError, "no layer 9"),
        ({"told": "{question} is new"}, EditError, "must have a place for the {answer}"),
        ({"told": "{fact} {answer}"}, EditError, "has places for {question} and {answer} alone"),
        ({"lr": 1e30}, EditError, "diverged"),
    ],
)
def test_refusals(llava, cases, tmp_path, change, error, problem):
    with pytest.raises(error, match=problem):
        train(replace(TINY, **change), llava, cases, tmp_path)


def test_bad_input(llava, cases, weights, tmp_path):
    with pytest.raises(EditError, match="top is 0"):
        LTE(weights, top=0).fit(llava, cases)
    with pytest.raises(EditError, match="there are no cases"):
        LTE(weights).fit(llava, [])
    with pytest.raises(EditError, match="has no target"):
        LTE(weights).fit(llava, [EditCase("x", Example("what ?", None, " "))])
    with pytest.raises(
        EditError, match=r"lte needs weights that were trained for this model .* 'vlmend train-editor lte"
    ):
        LTE(str(tmp_path)).fit(llava, cases)
    with pytest.raises(EditError, match=f"fingerprint {llava.fingerprint}"):
        LTE().fit(llava, cases)
    damaged = replace(Trained.load(Path(weights)), facts={"names": ["x", "y"], "told": "{answer}", "lead": ""})
    replace(damaged, tensors={"left.0": torch.ones(2, 2)}).save(tmp_path / "damaged")
    with pytest.raises(EditFormatError, match="the weights for 'lte' are no factors"):
        LTE(str(tmp_path / "damaged")).fit(llava, cases)


def test_rows_of_a_lesson(llava, cases):
    """Told rows are those of the case with its descriptor, alone or after others; each kind where it belongs."""
    lesson = LTELesson(replace(TINY, alone=0.0, beside=1), llava, cases, [])
    first = lesson.learned[0]
    assert list(first.must) == ["reliability", "text_generality", "image_generality"]
    assert list(first.stay) == ["text_locality", "image_locality"]
    assert len(first.plain) == 5
    row = first.must["reliability"][0]
    assert row.question.count("[Updated Information]") == 2
    assert row.question.endswith("what is at place 0 ? red\n[Query] what is at place 0 ?")
    for told, untold in first.stay["image_locality"]:
        assert told.question.endswith(f"[Query] {untold.question}")
        assert told.picture == untold.picture
    alone = LTELesson(replace(TINY, alone=1.0), llava, cases, [])
    for case in alone.learned:
        assert case.must["reliability"][0].question.count("[Updated Information]") == 1


def test_cases_with_other_targets(llava, cases):
    """They are told, and must be answered; what must stay untold is that of the case itself."""
    lesson = LTELesson(replace(TINY, retargets=1, alone=1.0), llava, cases, cases[:1])
    assert (lesson.count, len(lesson.held)) == (6, 1)
    for own, other in zip(lesson.learned[::2], lesson.learned[1::2], strict=True):
        rows = [case.must["text_generality"][0] for case in (own, other)]
        targets = [llava.text_of(row.target_N.tolist()) for row in rows]
        assert targets[0] != targets[1]
        assert all(f" {target}\n" in row.question for target, row in zip(targets, rows, strict=True))
        assert own.plain and not other.plain
        assert own.stay["image_locality"][0][1] is other.stay["image_locality"][0][1]
    lesson.loss(range(6), torch.Generator().manual_seed(0))


def test_losses_by_the_whole_model(vlm, cases):
    """In unlike families: with factors that add nothing the loss is what whole runs say, and nothing diverges from
    the untold rows themselves."""
    lesson = LTELesson(TINY, vlm, cases, cases[:1])
    case = lesson.learned[0]
    must, stay = [case.must["reliability"][0]], [case.stay["image_locality"][0]]
    loss, terms = lesson.losses(must, stay, case.plain)
    told = Example(must[0].question, cases[0].request.image, "red")
    away = cases[0].probes_of("image_locality")[0].example
    told_away = replace(away, question=stay[0][0].question)
    one, before, after = (row.logits_NV.log_softmax(-1) for row in vlm.run(vlm.prepare([told, away, told_away])).rows)
    target_N = vlm.prepare([told]).rows[0].target_N
    assert terms["ce"] == pytest.approx(-float(one[range(len(target_N)), target_N].mean()), rel=1e-3)
    assert terms["kl told"] == pytest.approx(
        float((before.exp() * (before - after)).sum(-1).mean()), rel=1e-2, abs=1e-6
    )
    assert terms["kl untold"] == pytest.approx(0.0, abs=1e-6)
    assert float(loss.detach()) == pytest.approx(sum(terms.values()), rel=1e-5)
    check = lesson.check()
    assert check.parts["untold"] == 1.0
    assert set(check.parts) == {*case.must, *case.stay, "untold"}


def test_a_case_without_probes_is_learnt_from_its_request(llava, cases):
    bare = [replace(case, probes=(Probe("text_generality", Example("say it", case.request.image)),)) for case in cases]
    lesson = LTELesson(TINY, llava, bare, [])
    loss, terms = lesson.loss([0, 1], torch.Generator().manual_seed(0))
    assert set(terms) == {"ce", "kl untold"}
    loss.backward()
    assert all(one.grad is not None for one in lesson.module.left)


def test_the_loss_falls_and_a_training_that_was_cut_short_ends_the_same(llava, cases, tmp_path):
    method = replace(TINY, steps=24, check_every=6, held_out=0.3)
    whole = train(method, llava, cases, tmp_path / "whole")

    class Killed(Exception): ...

    def kill(done: int, _all: int) -> None:
        if done == 14:
            raise Killed

    with pytest.raises(Killed):
        train(method, llava, cases, tmp_path / "cut", progress=kill)
    resumed: list[int] = []
    again = train(method, llava, cases, tmp_path / "cut", progress=lambda done, _all: resumed.append(done))
    assert resumed[0] == 13
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)
    lines = (tmp_path / "whole" / "records.jsonl").read_text()
    assert lines == (tmp_path / "cut" / "records.jsonl").read_text()
    import json

    ces = [json.loads(line)["training"].get("ce") for line in lines.splitlines()][1:]
    assert ces[-1] < 0.7 * ces[0]
