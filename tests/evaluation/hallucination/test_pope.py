from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.questions import Answer, YesNoQuestion
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.evaluation.hallucination import pope
from vlmend.evaluation.hallucination.pope import PROTOCOLS
from vlmend.evaluation.stats import wilson


def asked(pairs):
    """(answer, label) -> questions, each on a picture of its own, and answers."""
    questions = [YesNoQuestion(index, f"{index}.jpg", "Is it?", label) for index, (_, label) in enumerate(pairs)]
    return questions, [Answer(index, text) for index, (text, _) in enumerate(pairs)]


def test_the_published_numbers(golden):
    """POPE's evaluate.py on 20 odd answers: every one read as there, and the same scores."""
    published = golden["pope"]
    found = pope(*asked(published["answers_and_labels"]), protocol="pope")
    assert [one.said for one in found.records] == published["parsed"]
    scores = found.scores
    assert scores.accuracy == wilson(published["TP"] + published["TN"], 20)
    for name in ("accuracy", "precision", "recall", "f1"):
        assert getattr(scores, name).mean == pytest.approx(published[name], abs=1e-12), name
    assert scores.says_yes.mean == pytest.approx(published["yes_ratio_of_answers"], abs=1e-12)
    assert scores.unreadable.mean == 0.0


@pytest.mark.parametrize(
    ("text", "published", "first"),
    [
        ("Yes, there is.", "yes", "yes"),
        ("no", "no", "no"),
        ("NO!", "yes", "no"),
        ("  **No**, none", "yes", "no"),
        ("No,there is one", "yes", "no"),
        ("There is not a car.", "no", None),
        ("Nothing", "yes", None),
        ("Yes. No", "yes", "yes"),
        ("", "yes", None),
        ("42", "yes", None),
    ],
)
def test_reading(text, published, first):
    assert PROTOCOLS["pope"].read(text) == published
    assert PROTOCOLS["pope-first-word"].read(text) == first


def test_an_answer_that_cannot_be_read_is_wrong():
    found = pope(*asked([("Yes", "yes"), ("maybe", "yes"), ("maybe", "no"), ("No", "no")])).scores
    assert found.accuracy.mean == 0.5
    assert (found.precision.mean, found.precision.n) == (1.0, 1)
    assert (found.recall.mean, found.recall.n) == (0.5, 2)
    assert found.f1.mean == pytest.approx(2 / 3)
    assert (found.says_yes.mean, found.unreadable.mean, found.words.mean) == (0.25, 0.5, 1.0)


def test_silence_has_a_recall_of_one_as_published():
    """The published reading's defect, under its own name."""
    pairs = [("", "yes"), ("", "no")]
    assert pope(*asked(pairs), protocol="pope").scores.recall.mean == 1.0
    assert pope(*asked(pairs)).scores.recall.mean == 0.0


def test_questions_on_one_picture_are_not_independent():
    """Six answers on each picture, alike: the interval is as wide as that of the pictures."""
    pairs = [("Yes" if index % 2 else "No", "yes") for index in range(40) for _ in range(6)]
    questions, answers = asked(pairs)
    shared = [YesNoQuestion(one.id, f"{one.id // 6}.jpg", "Is it?", "yes") for one in questions]
    apart, together = pope(questions, answers).scores.accuracy, pope(shared, answers).scores.accuracy
    assert together.mean == apart.mean
    assert together.high - together.low > 2 * (apart.high - apart.low)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda q, a: (q, a[:1]), r"question 1 has no answer \(and 1 more like it\)"),
        (lambda q, a: (q, [*a, Answer(9, "")]), "answer 9 belongs to no question"),
        (lambda q, a: (q, [*a, a[0]]), "question 0 is answered twice"),
        (lambda q, a: ([*q, q[0]], a), "two questions have the id 0"),
    ],
)
def test_questions_and_answers_belong_together(change, problem):
    with pytest.raises(VlmendError, match=problem):
        pope(*change(*asked([("Yes", "yes")] * 3)))


def test_unknown_protocols_are_named():
    with pytest.raises(UnknownNameError, match="no POPE protocol named 'exact'; there are: pope, pope-first-word"):
        pope([], [], protocol="exact")


def test_nothing_is_no_number_and_becomes_null():
    found = pope([], [])
    assert math.isnan(found.scores.accuracy.mean)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["scores"]["accuracy"]["mean"] is None
    assert (plain["protocol"], plain["version"], plain["positive"]) == ("pope-first-word", "1", "yes")
    assert "wrong" in plain["unreadable"]


texts = st.sampled_from(["Yes", "No", "no, it is not", "maybe", ""]) | st.text(max_size=8)
pairs_of = st.lists(st.tuples(texts, st.sampled_from(["yes", "no"]), st.integers(0, 3)), max_size=12)


@given(pairs_of, st.sampled_from(list(PROTOCOLS)), st.randoms())
def test_rates_are_shares_and_order_does_not_matter(drawn, protocol, rng):
    questions = [YesNoQuestion(index, f"{picture}.jpg", "?", label) for index, (_, label, picture) in enumerate(drawn)]
    answers = [Answer(index, text) for index, (text, _, _) in enumerate(drawn)]
    found = pope(questions, answers, protocol=protocol)
    scores = found.scores
    for one in (scores.accuracy, scores.precision, scores.recall, scores.f1, scores.says_yes, scores.unreadable):
        assert math.isnan(one.mean) or 0.0 <= one.low <= one.mean + 1e-12 <= one.high + 2e-12 <= 1.0 + 3e-12
    rng.shuffle(questions)
    rng.shuffle(answers)
    assert repr(pope(questions, answers, protocol=protocol).scores) == repr(scores), "nan is not equal to itself"
