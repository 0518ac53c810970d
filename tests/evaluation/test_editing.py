from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import vlmend
from vlmend import FT, EditCase, Example, WeightOp
from vlmend.edits.edit import Edit
from vlmend.errors import EditError, FingerprintError
from vlmend.evaluation.editing import Baseline, evaluate
from vlmend.evaluation.text import normalised
from vlmend.models.trace import capture
from vlmend.runs import Run

FIT = FT(steps=20, lr=5e-3)
SHORT = 6


@pytest.fixture(scope="module")
def proof(tiny, cases):
    return evaluate(tiny("llava"), FIT, cases, max_new_tokens=SHORT)


def test_every_record_equals_a_run_of_its_own(llava, cases, proof):
    """Teacher-forced and free, before and after: as computed row by row, without batches."""
    records = iter(proof.records)
    for case in cases:
        edit = FIT.fit(llava, [case])
        for kind, example in [("reliability", case.request), *((p.kind, p.example) for p in case.probes)]:
            record = next(records)
            assert (record.case, record.kind, record.question) == (case.id, kind, example.question)
            prepared = llava.prepare([example])
            before, now = llava.run(prepared).rows[0], llava.run(prepared, edit).rows[0]
            n = before.answer_length
            likely = [row.logits_NV[:n].argmax(-1) for row in (before, now)]
            wanted = likely[0] if kind.endswith("locality") else before.target_N[:n]
            shares = [float((one == wanted).float().mean()) for one in likely]
            assert [record.tf_token_acc_before, record.tf_token_acc_after] == pytest.approx(shares)
            assert [record.tf_exact_before, record.tf_exact_after] == [float(share == 1.0) for share in shares]
            said = llava.answer(example.image, example.question, max_new_tokens=SHORT)
            with llava.using(edit):
                then = llava.answer(example.image, example.question, max_new_tokens=SHORT)
            assert (record.before, record.after) == (said, then)
            if kind.endswith("locality"):
                assert record.free_exact_before == 1.0
                assert record.free_exact_after == float(normalised(said) == normalised(then))
            else:
                right = {normalised(text) for text in example.accepted}
                assert record.free_exact_after == float(normalised(then) in right)
    assert next(records, None) is None


def test_fine_tuning_mends_the_request(proof):
    reliability = proof.summary["reliability"]
    assert reliability.n == 3
    assert reliability.free_exact.before.mean == 0.0
    assert reliability.free_exact.after.mean == 1.0
    assert reliability.tf_exact.after.mean == 1.0
    assert proof.protocol == "single"
    assert proof.settings["steps"] == FIT.steps
    assert all(cost.seconds > 0 and cost.peak_mb > 10 for cost in proof.costs)
    assert list(proof.summary) == [
        "reliability",
        "text_generality",
        "image_generality",
        "text_locality",
        "image_locality",
    ]


def test_an_edit_that_does_nothing(llava, cases):
    name = next(iter(llava.weights.named(llava.parts.modules("last", ["mlp.down"]))))
    zero = torch.zeros_like(llava.weights.named(llava.parts.modules("last", ["mlp.down"]))[name])
    edit = Edit(base=llava.fingerprint, ops=(WeightOp.deltas({name: zero}),))
    proof = evaluate(llava, edit, cases, max_new_tokens=SHORT)
    assert proof.protocol == "given"
    assert not proof.costs
    for record in proof.records:
        assert record.before == record.after
        assert record.tf_token_acc_before == record.tf_token_acc_after
    assert proof.summary["text_locality"].free_exact.after.mean == 1.0
    assert proof.summary["image_locality"].tf_exact.after.mean == 1.0
    assert proof.summary["reliability"].free_exact.gain.mean == 0.0


def test_one_edit_for_all_cases_equals_rows_with_it(llava, cases, proof):
    edit = FIT.fit(llava, cases[:1])
    given = evaluate(llava, edit, cases[:1], max_new_tokens=SHORT)
    alone = [record for record in proof.records if record.case == cases[0].id]
    assert list(given.records) == alone


def test_what_is_known_is_not_run_again(llava, cases):
    baseline = Baseline(llava.fingerprint)
    edit = FIT.fit(llava, cases[:1])
    first = evaluate(llava, edit, cases, max_new_tokens=SHORT, baseline=baseline)
    # Three cases of five probes share one question without picture.
    assert len(baseline.known) == 13
    with capture({"head": llava.parts.head}) as before:
        second = evaluate(llava, edit, cases, max_new_tokens=SHORT, baseline=baseline)
    with capture({"head": llava.parts.head}) as fresh:
        evaluate(llava, edit, cases, max_new_tokens=SHORT)
    assert len(before) * 2 == len(fresh)
    assert second.records == first.records
    with pytest.raises(FingerprintError):
        evaluate(llava, edit, cases, baseline=Baseline("another"))


def test_a_run_that_was_stopped_goes_on(llava, cases, proof, tmp_path):
    settings = {"editor": "ft"}
    stopped = [0]

    def stop(count: int, total: int) -> None:
        stopped[0] = count
        if count == 2:
            raise KeyboardInterrupt

    with Run(tmp_path, settings) as run, pytest.raises(KeyboardInterrupt):
        evaluate(llava, FIT, cases, max_new_tokens=SHORT, run=run, progress=stop)
    assert stopped == [2]
    with Run(tmp_path, settings) as run:
        fitted: list[str] = []
        went_on = evaluate(
            llava, FIT, cases, max_new_tokens=SHORT, run=run, on_edit=lambda case, edit: fitted.append(case.id)
        )
    assert fitted == [cases[2].id]
    assert went_on.records == proof.records
    assert went_on.summary == proof.summary
    assert json.loads((tmp_path / "metrics.json").read_text())["reliability"]["n"] == 3


def test_results_are_json(proof):
    plain = json.loads(json.dumps(proof.to_json(), allow_nan=False))
    assert plain["records"][0]["case"] == "case-0"
    assert plain["summary"]["reliability"]["free_exact"]["after"]["n"] == 3


def test_probes_without_answers_are_scored_freely(llava, cases):
    """A locality probe needs no known answer: it is compared with what the model said."""
    probe = vlmend.Probe("text_locality", Example("who wrote the song"))
    proof = evaluate(llava, FIT, [replace(cases[0], probes=(probe,))], max_new_tokens=SHORT)
    record = proof.records[1]
    assert record.tf_exact_after is None
    assert record.free_exact_after in (0.0, 1.0)
    assert proof.summary["text_locality"].tf_exact.after.n == 0
    assert proof.to_json()["summary"]["text_locality"]["tf_exact"]["after"]["mean"] is None


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda cases: [], "no cases"),
        (lambda cases: [cases[0], cases[0]], "several cases have the id 'case-0'"),
        (lambda cases: [EditCase("x", Example("what ?", None, " "))], "case 'x' has no target"),
    ],
)
def test_refusals(llava, cases, make, problem):
    with pytest.raises(EditError, match=problem):
        evaluate(llava, FIT, make(cases))
