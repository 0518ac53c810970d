"""Objects that an endpoint lists: what is read, recorded and replayed, and failures that are no empty lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.formats.coco import read_synonyms
from vlmend.data.questions import Answer
from vlmend.errors import VlmendError
from vlmend.evaluation.hallucination.extracting import extracted_objects, judged_object_halbench
from vlmend.evaluation.judged import Judge, Replies

ANSWERS = [
    Answer(7, "A dog sits in front of a bus.", "Describe it."),
    Answer(8, "There is nothing to see here.", "Describe it."),
    Answer(8, "No.", "Describe it."),
]
OBJECTS = {7: ["dog"], 8: ["cat"]}


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('["dog", "bus"]', ["dog", "bus"]),
        ('Here you are:\n```json\n["hot dog",\n " "]\n```', ["hot dog"]),
        ("[]", []),
        ('["dog"] or ["cat"]', None),
        ("dog, bus", None),
        ("[1, 2]", None),
        ("['dog']", None),
        ('["dog"', None),
        ("", None),
    ],
)
def test_lists(reply, found):
    assert extracted_objects(reply) == found


@given(st.text())
def test_no_reply_breaks_it(reply):
    extracted_objects(reply)


def test_objects_are_listed_once(served, tmp_path):
    served.say = lambda body: (200, '["dog", "bus"]' if "bus" in body["messages"][-1]["content"] else "[]")
    with Replies(tmp_path / "judge.jsonl") as replies:
        judge = Judge("extractor", replies, served.endpoint)
        found = judged_object_halbench(ANSWERS, OBJECTS, judge, synonyms=read_synonyms())
    assert (found.n, found.mention.mean, found.mention.n, found.failed) == (3, 0.5, 2, ())
    assert len(served.asked) == 2  # three words or fewer are not looked at
    assert served.asked[0][2]["temperature"] == 0.0
    with Replies(more=[tmp_path / "judge.jsonl"]) as replies:
        again = judged_object_halbench(ANSWERS, OBJECTS, Judge("extractor", replies), synonyms=read_synonyms())
    assert again == found


def test_a_failed_extraction_names_nothing_and_is_no_answer(served):
    served.say = lambda body: (200, '["dog"]' if "bus" in body["messages"][-1]["content"] else "none")
    judge = Judge("extractor", Replies(), served.endpoint)
    found = judged_object_halbench(ANSWERS, OBJECTS, judge, synonyms=read_synonyms())
    assert (found.n, len(found.records)) == (2, 2)
    assert [(one.id, one.why) for one in found.failed] == [(8, "the reply is not one JSON list of texts ('none')")]
    with pytest.raises(VlmendError, match="no answer's objects could be had"):
        judged_object_halbench(ANSWERS[1:2], OBJECTS, judge, synonyms=read_synonyms())
