"""Suites of the demo world: the truth gets full marks, a model that says everything is found out."""

from __future__ import annotations

import pytest

from vlmend.data.questions import Answer
from vlmend.errors import UnknownNameError
from vlmend.evaluation.hallucination.chair import ChairResult
from vlmend.evaluation.hallucination.yes_no import YesNoResult
from vlmend.world.catalog import catalog
from vlmend.world.questions import plural
from vlmend.world.suites import SUITES, chair_suite, pope_suite

SCENES = 6


def test_pope_is_balanced_and_true():
    suite = pope_suite(SCENES)
    right = suite.score([Answer(key, example.answer or "") for key, example in suite.asked])
    assert isinstance(right, YesNoResult)
    assert right.scores.accuracy.mean == 1.0
    assert right.scores.says_yes.mean == 0.5
    assert set(right.kinds) == {"random", "popular", "adversarial"}
    assert right.kinds["random"].n == right.kinds["popular"].n == 2 * SCENES
    assert SCENES <= right.kinds["adversarial"].n <= 2 * SCENES, "every second scene lacks a companion"
    always = suite.score([Answer(key, "Yes") for key, _ in suite.asked])
    assert isinstance(always, YesNoResult)
    assert (always.scores.accuracy.mean, always.scores.recall.mean) == (0.5, 1.0)


def test_chair_knows_every_kind_and_its_plural():
    suite = chair_suite(SCENES)
    kinds = [word for kind in catalog().kinds for word in (kind, plural(kind))]
    everything = suite.score([Answer(key, ", ".join(kinds)) for key, _ in suite.asked])
    assert isinstance(everything, ChairResult)
    assert everything.recall.mean == 1.0
    assert everything.chair_i.n == SCENES * len(kinds)
    assert everything.chair_s.mean == 1.0
    truth = {record.picture: record.truth for record in everything.records}
    right = suite.score([Answer(key, " and ".join(truth[key])) for key, _ in suite.asked])
    assert (right.rates["chair_i"].mean, right.rates["recall"].mean) == (0.0, 1.0)


@pytest.mark.parametrize("name", list(SUITES))
def test_suites_are_drawn_alike(name):
    assert SUITES[name](4).fingerprint == SUITES[name](4).fingerprint
    assert SUITES[name](4).fingerprint != SUITES[name](4, seed=1).fingerprint
    assert SUITES[name](4, protocol=name).score
    with pytest.raises(UnknownNameError, match="protocol named 'legacy'"):
        SUITES[name](1, protocol="legacy")
