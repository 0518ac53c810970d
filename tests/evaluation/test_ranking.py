"""Metrics rank what is known to be good or bad as it should be ranked.

Made-up editors, each a rule for what an edited model says: the metrics of the records must tell them apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.records import EditCase, Example, Probe
from vlmend.editors.base import editor
from vlmend.evaluation.editing import evaluate
from vlmend.evaluation.kinds import KINDS, RELIABILITY, kind_of
from vlmend.evaluation.observing import Observed
from vlmend.evaluation.proof import Proof, summarised
from vlmend.evaluation.protocols import PROTOCOLS
from vlmend.evaluation.scoring import record_of

WORDS = [f"word{number}" for number in range(12)]
"""Each answer of the made-up world is one token: its place in this list."""

QUESTION, PICTURE = "which country is this?", "flag"
TARGET, SAID = "word0", "word1"

# kind -> question, picture, right answer, what the base model says
ASKED = {
    RELIABILITY: (QUESTION, PICTURE, TARGET, SAID),
    "text_generality": ("whose flag is this?", PICTURE, TARGET, SAID),
    "image_generality": (QUESTION, "flag again", TARGET, SAID),
    "ood_generality": (QUESTION, "flag drawn", TARGET, SAID),
    "portability": ("what is the capital?", PICTURE, "word2", "word3"),
    "text_locality": ("who sang it?", "", "word4", "word5"),
    "image_locality": ("what is on the table?", "table", "word6", "word6"),
    "same_image_locality": ("what symbol is on it?", PICTURE, "word7", "word7"),
    "same_question_locality": (QUESTION, "other flag", "word8", "word8"),
    "no_image_locality": (QUESTION, "", "word9", "word9"),
}
KEPT = [kind for kind in ASKED if kind_of(kind).keeps]
CHANGED = [kind for kind in ASKED if not kind_of(kind).keeps]

Rule = Callable[[str, str, str, str], str]
"""(question, picture, right answer, what the base says) -> what the edited model says."""

EDITORS: dict[str, Rule] = {
    "null": lambda question, picture, right, said: said,
    "parrot": lambda question, picture, right, said: TARGET,
    "image-blind": lambda question, picture, right, said: TARGET if question == QUESTION else said,
    "question-blind": lambda question, picture, right, said: TARGET if picture == PICTURE else said,
    "lookup": lambda question, picture, right, said: TARGET if (question, picture) == (QUESTION, PICTURE) else said,
    "oracle": lambda question, picture, right, said: right if right in (TARGET, "word2") else said,
    "breaker": lambda question, picture, right, said: "word11",
}


def observed(word: str, sure: float = 4.0) -> Observed:
    logits = torch.zeros(1, len(WORDS))
    logits[0, WORDS.index(word)] = sure
    top = logits.topk(10, dim=-1).indices.tolist()
    return Observed(word, tuple(map(tuple, top)), torch.log_softmax(logits, -1))


def proof(rule: Rule, protocol: str = "default", cases: int = 4) -> Proof:
    records = [
        record_of(
            EditCase(f"case-{number}", Example(QUESTION, None, TARGET), counterfactual=number % 2 == 1),
            Probe(kind, Example(question, None, right)),
            [WORDS.index(right)],
            observed(said),
            observed(rule(question, picture, right, said)),
            recognised=number < 2 if kind == "image_generality" else None,
        )
        for number in range(cases)
        for kind, (question, picture, right, said) in ASKED.items()
    ]
    return Proof("toy", "0", "rule", {}, "single", tuple(records), (), {}, PROTOCOLS[protocol])


def scores(name: str, protocol: str = "default") -> dict[str, float]:
    return {kind: one.score.after.mean for kind, one in proof(EDITORS[name], protocol).summary.items()}


def test_every_known_kind_is_here():
    assert list(ASKED) == list(KINDS)
    assert [kind for kind in ASKED if kind.endswith("_locality")] == KEPT


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_doing_nothing_gains_nothing_and_harms_nothing(protocol):
    for kind, summary in proof(EDITORS["null"], protocol).summary.items():
        assert summary.score.gain.mean == 0.0
        if kind in KEPT:
            assert summary.score.after.mean == 1.0
            assert summary.kl is not None and summary.kl.mean == 0.0
        else:
            assert summary.score.after.mean == 0.0
            assert summary.kl is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_saying_the_target_always_is_reliable_and_keeps_nothing(protocol):
    found = scores("parrot", protocol)
    assert [found[kind] for kind in (RELIABILITY, "text_generality", "image_generality", "ood_generality")] == [1.0] * 4
    assert found["portability"] == 0.0
    ranked = {"image_locality"} if protocol == "legacy" else set()
    for kind in KEPT:
        assert found[kind] < 1.0 if kind in ranked else found[kind] == 0.0


def test_an_image_blind_edit_is_caught_by_near_misses_alone():
    """It looks perfect to MMEdit's five metrics but T-Gen; M-Gen, which it passes trivially, cannot tell."""
    found = scores("image-blind")
    assert {kind for kind in ASKED if found[kind] == 1.0} == {
        RELIABILITY, "image_generality", "ood_generality", "text_locality", "image_locality", "same_image_locality",
    }  # fmt: skip
    assert found["same_question_locality"] == found["no_image_locality"] == 0.0


def test_a_question_blind_edit_is_caught_on_its_own_picture():
    found = scores("question-blind")
    assert found[RELIABILITY] == found["text_generality"] == found["image_locality"] == 1.0
    assert found["same_image_locality"] == found["portability"] == found["image_generality"] == 0.0


def test_a_lookup_table_is_reliable_and_no_more():
    found = scores("lookup")
    assert found[RELIABILITY] == 1.0
    assert all(found[kind] == 0.0 for kind in CHANGED[1:])
    assert all(found[kind] == 1.0 for kind in KEPT)


def test_the_oracle_is_perfect_and_above_all_others():
    assert set(scores("oracle").values()) == {1.0}
    total = {name: sum(scores(name).values()) for name in EDITORS}
    assert max(total, key=lambda name: total[name]) == "oracle"
    assert min(total, key=lambda name: total[name]) == "breaker"
    assert total["breaker"] == 0.0


def test_gains_have_paired_intervals():
    gain = proof(EDITORS["oracle"]).summary[RELIABILITY].score.gain
    assert (gain.n, gain.mean, gain.high) == (4, 1.0, 1.0)
    assert 0.0 < gain.low < 1.0


def test_only_what_the_base_recognises_counts_when_gated():
    rule: Rule = EDITORS["parrot"]
    records = proof(rule).records
    half = [
        record_of(
            EditCase(record.case, Example(QUESTION, None, TARGET)),
            Probe(record.kind, Example(record.question, None, TARGET)),
            [0],
            observed(SAID),
            observed(TARGET if record.recognised else SAID),
            recognised=record.recognised,
        )
        for record in records
        if record.kind == "image_generality"
    ]
    summary = summarised(half)["image_generality"]
    assert (summary.n, summary.score.after.mean) == (4, 0.5)
    gated = summary.recognised
    assert gated is not None
    assert (gated.n, gated.score.after.mean, gated.recognised) == (2, 1.0, None)


def test_without_premises_nothing_is_gated():
    assert proof(EDITORS["null"]).summary["portability"].recognised is None


def test_nothing_recognised_is_no_number():
    record = proof(EDITORS["oracle"]).records[0]
    unseen = record_of(
        EditCase("x", Example(QUESTION, None, TARGET)),
        Probe(record.kind, Example(QUESTION, None, TARGET)),
        [0],
        observed(SAID),
        observed(TARGET),
        recognised=False,
    )
    gated = summarised([unseen])[RELIABILITY].recognised
    assert gated is not None
    assert gated.n == gated.score.after.n == 0


def test_natural_errors_and_made_up_targets_stand_apart():
    made = proof(EDITORS["oracle"])
    assert list(made.apart) == ["natural", "counterfactual"]
    assert [summary[RELIABILITY].n for summary in made.apart.values()] == [2, 2]
    assert proof(EDITORS["oracle"], cases=1).apart == {}
    assert made.to_json()["apart"]["natural"][RELIABILITY]["n"] == 2


@pytest.mark.parametrize(
    ("name", "kept"),
    [("null", "SI-Loc SQ-Loc NI-Loc"), ("parrot", ""), ("image-blind", "SI-Loc"), ("oracle", "SI-Loc SQ-Loc NI-Loc")],
)
def test_registered_controls_keep_what_they_should_nearby(llava, cases, picture, name, kept):
    request = cases[0].request
    near = (
        Probe("same_image_locality", Example("is there a dog ?", request.image, "no")),
        Probe("same_question_locality", Example(request.question, picture(30), "blue")),
        Probe("no_image_locality", Example(request.question, None, request.answer)),
    )
    made = evaluate(llava, editor(name), [replace(cases[0], probes=near)], max_new_tokens=6)
    found = {summary.label: summary for summary in made.summary.values() if kind_of(summary.kind).keeps}
    assert {label for label, one in found.items() if one.score.after.mean == 1.0} == set(kept.split())
    assert {label for label, one in found.items() if one.kl and one.kl.mean < 1e-6} == set(kept.split())


words = st.sampled_from(WORDS)
kinds = st.sampled_from(list(KINDS))


@given(kinds, words, words, words, st.floats(0.1, 8), st.floats(0.1, 8))
def test_scores_are_shares_and_locality_ignores_the_right_answer(kind, right, said, says, sure, then):
    case = EditCase("x", Example(QUESTION, None, TARGET))

    def made(answer: str):
        probe = Probe(kind, Example(QUESTION, None, answer))
        return record_of(case, probe, [WORDS.index(answer)], observed(said, sure), observed(says, then))

    record = made(right)
    for protocol in PROTOCOLS.values():
        before, after = protocol.score(record)
        assert before is not None and after is not None
        assert 0.0 <= before <= 1.0 and 0.0 <= after <= 1.0
    if kind in KEPT:
        assert record.kl is not None and record.kl >= 0.0
        assert said == says or record.kl > 0.0
        assert (said, sure) != (says, then) or record.kl == 0.0
        assert record.free_exact_before == record.tf_exact_before == 1.0
        assert (record.free_exact_after == 1.0) == (said == says)
        for other in WORDS[:3]:
            assert made(other).free_exact_after == record.free_exact_after
    else:
        assert (record.free_exact_after == 1.0) == (record.tf_exact_after == 1.0) == (says == right)


@given(st.permutations(range(len(EDITORS))))
def test_order_of_records_does_not_matter(order):
    some = list(itertools.chain.from_iterable(proof(rule, cases=1).records[:2] for rule in EDITORS.values()))
    shuffled = [some[2 * place] for place in order] + [some[2 * place + 1] for place in order]
    for kind, summary in summarised(some).items():
        assert summarised(shuffled)[kind].score.after.mean == pytest.approx(summary.score.after.mean)
