from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import vlmend
from vlmend import FT, VLM, EditCase, Example, WeightOp
from vlmend.edits.edit import Edit
from vlmend.edits.prompts import PromptOp, RecallOp
from vlmend.errors import EditError, FingerprintError, UnknownNameError
from vlmend.evaluation.editing import compare, evaluate
from vlmend.evaluation.record import ProbeRecord
from vlmend.evaluation.text import normalised
from vlmend.models.outputs import kl_divergence
from vlmend.models.prefix import beginning
from vlmend.models.trace import called_through, capture
from vlmend.runs import Run

FIT = FT(steps=20, lr=5e-3)
SHORT = 6


@pytest.fixture(scope="module")
def proof(tiny, cases):
    return evaluate(tiny("llava"), FIT, cases, max_new_tokens=SHORT)


def test_every_record_equals_a_run_of_its_own(llava, cases, proof):
    """Teacher-forced and free, before and after: as computed row by row, without batches."""
    equal_runs_of_their_own(llava, cases, FIT, proof)


def test_without_gains_only_what_must_stay_is_asked_before(llava, cases, proof):
    """And what probes rest on; every score after an edit is the same."""
    quick = evaluate(llava, FIT, cases, max_new_tokens=SHORT, gains=False)
    changing = [record for record in quick.records if not record.kind.endswith("locality")]
    assert {(r.before, r.tf_token_acc_before, r.tf_exact_before, r.free_exact_before) for r in changing} == {
        (None, None, None, None)
    }
    unknown = dict.fromkeys(f"{name}_before" for name in ("tf_token_acc", "tf_exact", "free_exact", "free_vqa"))
    for mine, whole in zip(quick.records, proof.records, strict=True):
        if mine.kind.endswith("locality"):
            assert replace(mine, kl=None) == replace(whole, kl=None)
            assert mine.kl == pytest.approx(whole.kl, rel=1e-3, abs=1e-6)
        else:
            assert mine == replace(whole, before=None, **unknown)
    for kind, summary in quick.summary.items():
        assert summary.score.after.mean == proof.summary[kind].score.after.mean
        asked = kind.endswith("locality")
        assert (summary.score.before.n, summary.score.gain.n) == ((summary.n,) * 2 if asked else (0, 0))
    json.dumps(quick.to_json(), allow_nan=False)


def test_also_with_texts_before_the_question(llava, cases):
    """Of edits that put a text before every question, above a change of weights, none of what is shared is wrong."""
    equal_runs_of_their_own(llava, cases, Telling(), evaluate(llava, Telling(), cases, max_new_tokens=SHORT))


@dataclass(frozen=True)
class Telling:
    name: ClassVar[str] = "telling"

    def fit(self, vlm, cases):
        keys = vlm.keys(vlm.prepare([cases[0].request]))
        texts = (PromptOp(f"so it is {cases[0].request.answer} . "), RecallOp(("and so . ",), keys, least=1.5))
        return replace(FIT.fit(vlm, cases), ops=(*FIT.fit(vlm, cases).ops, *texts))


def equal_runs_of_their_own(llava, cases, editor, proof):
    records = iter(proof.records)
    for case in cases:
        edit = editor.fit(llava, [case])
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
            top = tuple(tuple(ids) for ids in now.logits_NV[:n].topk(10).indices.tolist())
            if kind.endswith("locality"):
                divergence = kl_divergence(before.logits_NV[:n], now.logits_NV[:n])
                assert record.kl == pytest.approx(divergence, rel=1e-3, abs=1e-6)
                assert record.top_after == top
                assert record.free_exact_before == 1.0
                assert record.free_exact_after == float(normalised(said) == normalised(then))
            else:
                assert (record.kl, record.top_after) == (None, ())
                right = {normalised(text) for text in example.accepted}
                assert record.free_exact_after == float(normalised(then) in right)
    assert next(records, None) is None


def test_fine_tuning_mends_the_request(proof):
    reliability = proof.summary["reliability"]
    assert reliability.n == 3
    assert reliability.free_exact.before.mean == 0.0
    assert reliability.free_exact.after.mean == 1.0
    assert reliability.tf_exact.after.mean == 1.0
    assert proof.mode == "single"
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
    assert proof.mode == "given"
    assert not proof.costs
    for record in proof.records:
        assert record.before == record.after
        assert record.tf_token_acc_before == record.tf_token_acc_after
    assert proof.summary["text_locality"].free_exact.after.mean == 1.0
    assert proof.summary["image_locality"].tf_exact.after.mean == 1.0
    assert proof.summary["reliability"].free_exact.gain.mean == 0.0
    assert proof.summary["text_locality"].kl.mean < 1e-9


def test_one_edit_for_all_cases_equals_rows_with_it(llava, cases, proof):
    edit = FIT.fit(llava, cases[:1])
    given = evaluate(llava, edit, cases[:1], max_new_tokens=SHORT)
    alone = [record for record in proof.records if record.case == cases[0].id]
    assert [record.kl for record in given.records] == pytest.approx([record.kl for record in alone], abs=1e-5)
    assert [replace(record, kl=None) for record in given.records] == [replace(record, kl=None) for record in alone]


def test_what_editors_share_is_run_once(llava, cases):
    """Layers below the edit, pictures and the model's own answers, whatever the number of editors."""
    last = len(llava.parts.layers) - 1
    edits = [FT(layers="last", modules=("mlp.down",), steps=steps).fit(llava, cases[:1]) for steps in (1, 2, 3)]

    def calls(some, module):
        with capture({"it": module}) as seen:
            compare(llava, some, cases[:1], max_new_tokens=0, protocol="legacy")
        return len(seen)

    batches = calls(edits[:1], llava.parts.layers[0])
    assert calls(edits, llava.parts.layers[0]) == batches
    assert calls(edits, llava.parts.layers[last]) > batches
    assert calls(edits, llava.parts.vision) == calls(edits[:1], llava.parts.vision) == 1


def test_what_lies_below_editors_of_a_middle_layer_is_run_once(llava, cases):
    """Of a picture: the words behind it are few."""
    editors = [
        vlmend.VisualDelta(layers=[2], steps=1),
        FT(layers=[2], steps=1),
        vlmend.VisualDelta(layers=[1], steps=1),
    ]
    edits = [editor.fit(llava, cases[:1]) for editor in editors]
    length = beginning(llava.prepare([cases[0].request]).rows[0])

    def pictures(some, layer):
        """How often a layer is run on what rows begin with."""
        found = []

        def counted(forward, states_BTD, *args, **named):
            found.extend([states_BTD.shape[1]] * len(states_BTD))
            return forward(states_BTD, *args, **named)

        with called_through(llava.parts.layers[layer], counted):
            compare(llava, some, cases[:1], max_new_tokens=0, protocol="legacy")
        return sum(count == length for count in found)

    pictures(edits, 0)  # compared with whole runs, this once
    assert pictures(edits, 0) == pictures(edits[:1], 0) > 0
    assert pictures(edits, 3) > pictures(edits[:1], 3)


def test_an_edit_is_made_from_what_is_run_of_its_picture_for_its_measuring(llava, cases):
    """Of the layers below only the words' tokens are run for the fit, and the edit is what it is without that."""
    editor = vlmend.editor("ultraedit", layers=[2])
    edit, request = editor.fit(llava, cases[:1]), llava.prepare([cases[0].request]).rows[0]
    words = len(request.ids_T) + len(request.target_N) - beginning(request)
    made = []

    def tokens(one) -> int:
        """How many the lowest layer is run on, of all rows."""
        found = []

        def counted(forward, states_BTD, *args, **named):
            found.append(states_BTD.shape[0] * states_BTD.shape[1])
            return forward(states_BTD, *args, **named)

        with called_through(llava.parts.layers[0], counted):
            evaluate(llava, one, cases[:1], max_new_tokens=0, protocol="legacy", gains=False, on_edit=keep)
        return sum(found)

    def keep(_, one) -> None:
        made.append(one)

    tokens(editor)  # compared with whole runs, this once
    assert tokens(editor) <= tokens(edit) + words
    changes = made[-1].ops[0].changes
    for name, change in edit.ops[0].changes.items():
        for mine, alone in zip(changes[name].tensors, change.tensors, strict=True):
            torch.testing.assert_close(mine, alone, rtol=0, atol=1e-3 * float(alone.abs().max()))


def test_editors_compared_are_as_measured_alone(llava, cases, proof):
    others = [replace(FIT, steps=3, layers=0), vlmend.VisualDelta(steps=2)]
    together = compare(llava, [others[0], FIT, others[1]], cases, max_new_tokens=SHORT)
    assert together[1].records == proof.records
    for one, editor in zip((together[0], together[2]), others, strict=True):
        assert one.records == evaluate(llava, editor, cases, max_new_tokens=SHORT).records


def test_an_edit_of_early_layers_does_not_cost_the_next_its_beginning(llava, cases):
    """Records are those of each alone to the last bit, and the last layer's edit still begins there."""
    editors = [FT(layers=1, steps=2), FT(layers="last", modules=("mlp.down",), steps=3)]
    together = compare(llava, editors, cases[:1], max_new_tokens=SHORT)
    for proof, editor in zip(together, editors, strict=True):
        assert proof.records == evaluate(llava, editor, cases[:1], max_new_tokens=SHORT).records
    edits = [editor.fit(llava, cases[:1]) for editor in editors]

    def whole_runs(some):
        with capture({"embed": llava.parts.embed}) as seen:
            compare(llava, some, cases[:1], max_new_tokens=0, protocol="legacy")
        return len(seen)

    assert whole_runs(edits) == whole_runs(edits[:1])


def test_answers_are_confirmed_not_decoded(llava, cases, monkeypatch):
    """What a few guesses settle needs no generation, before an edit or with it; long new answers do."""
    asked: list[int] = []
    plain = VLM.replies

    def counted(self, prepared, *given, **named):
        asked.append(len(prepared))
        return plain(self, prepared, *given, **named)

    monkeypatch.setattr(VLM, "replies", counted)
    nothing = Edit(llava.fingerprint, ())
    proof = evaluate(llava, nothing, cases[:1], max_new_tokens=SHORT)
    assert not asked
    assert [record.after for record in proof.records] == [record.before for record in proof.records]
    said = llava.generate(
        llava.prepare([cases[0].request, *(probe.example for probe in cases[0].probes)]), max_new_tokens=SHORT
    )
    assert [record.before for record in proof.records] == said
    asked.clear()
    names = llava.weights.named(llava.parts.modules("last", ["mlp.down"]), matrices_only=True)
    maker = torch.Generator().manual_seed(0)
    loud = {name: torch.randn(one.shape, generator=maker) for name, one in names.items()}
    edit = Edit(llava.fingerprint, (WeightOp.deltas(loud),))
    proof = evaluate(llava, edit, cases[:1], max_new_tokens=5 * SHORT)
    assert sum(asked) > 0
    with llava.using(edit):
        then = llava.answer(cases[0].request.image, cases[0].request.question, max_new_tokens=5 * SHORT)
    assert proof.records[0].after == then


def test_without_free_answers(llava, cases, proof):
    """Teacher-forced scores are the same; nothing is generated, and what counts free answers is refused."""
    forced = evaluate(llava, FIT, cases, protocol="legacy", max_new_tokens=0)
    assert all(record.before is record.after is record.free_exact_after is None for record in forced.records)
    for mine, whole in zip(forced.records, proof.records, strict=True):
        assert mine.tf_token_acc_after == whole.tf_token_acc_after
        assert mine.kl == (None if whole.kl is None else pytest.approx(whole.kl, rel=1e-3, abs=1e-7))
    assert forced.summary["reliability"].score.after.mean == 1.0
    assert json.dumps(forced.to_json(), allow_nan=False)
    with pytest.raises(EditError, match="'default' counts free answers"):
        evaluate(llava, FIT, cases, max_new_tokens=0)


def test_an_edit_of_another_model(llava, cases):
    with pytest.raises(FingerprintError):
        evaluate(llava, Edit("another", ()), cases)


def test_what_a_probe_rests_on_is_asked_of_the_unedited_model(llava, cases):
    """Recognised if all premises are answered right before the edit; their answers are no scores of their own."""
    first = cases[0]
    said = llava.answer(first.request.image, first.request.question, max_new_tokens=SHORT)
    knows = replace(first.request, answer="something else", aliases=(said,))
    fails = replace(first.request, answer="something else", aliases=())
    probe = first.probes_of("image_generality")[0]
    premises = [(), (knows,), (fails,), (knows, fails)]
    case = replace(first, probes=tuple(replace(probe, premises=some) for some in premises))
    proof = evaluate(llava, FIT, [case], max_new_tokens=SHORT)
    assert [record.recognised for record in proof.records] == [None, None, True, False, False]
    summary = proof.summary["image_generality"]
    assert (summary.n, summary.recognised.n) == (4, 1)


@pytest.mark.parametrize("name", ["default", "legacy", "visedit"])
def test_protocols_put_and_score_in_their_way(llava, cases, name):
    seen: list[EditCase] = []
    proof = evaluate(
        llava, FIT, cases[:1], protocol=name, max_new_tokens=SHORT, on_edit=lambda case, edit: seen.append(case)
    )
    cue = " The answer is:" if name == "visedit" else ""
    assert proof.records[0].question == seen[0].request.question == cases[0].request.question + cue
    for record in proof.records:
        one = proof.summary[record.kind]
        assert one.score.after.mean == proof.protocol.score(record)[1]
        assert one.tf_token_acc.after.mean == record.tf_token_acc_after
    assert proof.to_json()["protocol"] == name


def test_unknown_protocol(llava, cases):
    with pytest.raises(UnknownNameError, match="no protocol named 'bleu'"):
        evaluate(llava, FIT, cases, protocol="bleu")


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
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [ProbeRecord.restored(one) for line in lines for one in line["records"]] == list(proof.records)
    assert json.loads((tmp_path / "metrics.json").read_text())["reliability"]["n"] == 3


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5])
def test_numbers_are_the_same_to_the_last_bit_wherever_a_run_was_stopped(llava, cases, tmp_path, stop_after):
    """Two editors on three cases, stopped between cases and within one."""
    editors = [FIT, replace(FIT, steps=3, layers=1)]

    def measured(folder, stop):
        with Run(folder, {}) as run:
            logs = [run.part(editor=number) for number in range(len(editors))]
            proofs = compare(llava, editors, cases, max_new_tokens=SHORT, runs=logs, progress=stop)
        return [proof.records for proof in proofs]

    def stop(count: int, total: int) -> None:
        assert total == 6
        if count == stop_after:
            raise KeyboardInterrupt

    whole = measured(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "stopped", stop)
    assert measured(tmp_path / "stopped", None) == whole


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
