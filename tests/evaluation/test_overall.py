"""One number for an editor: the mean of its parts, and what editors differ by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmend.evaluation.overall import SCORES, drop, lead, overall
from vlmend.evaluation.record import ProbeRecord

KINDS = ("reliability", "text_generality", "image_generality", "text_locality", "image_locality", "same_image_locality")


def record(case: int, kind: str, after: float) -> ProbeRecord:
    before = 1.0 if kind.endswith("_locality") else 0.0
    scores = {
        f"{name}_{when}": value
        for name in ("tf_token_acc", "tf_exact", "free_exact", "free_vqa")
        for when, value in (("before", before), ("after", after))
    }
    return ProbeRecord(str(case), kind, f"what {kind} ?", None, "red", "blue", "red", **scores)


def records(scores: list[list[float]]) -> list[ProbeRecord]:
    return [
        record(case, kind, after) for case, row in enumerate(scores) for kind, after in zip(KINDS, row, strict=True)
    ]


perfect, nothing = [[1.0] * 6] * 5, [[0.0] * 3 + [1.0] * 3] * 5


def test_an_editor_that_does_nothing_gains_nothing_and_a_perfect_one_half():
    assert overall(records(nothing), SCORES["gain"]).mean == 0.0
    assert overall(records(perfect), SCORES["gain"]).mean == pytest.approx(0.5)
    assert overall(records(nothing), SCORES["published"]).mean == pytest.approx(0.4)
    assert overall(records(nothing), SCORES["published without T-Loc"]).mean == pytest.approx(0.25)
    assert overall(records(perfect), SCORES["published"]).mean == 1.0


def test_near_misses_are_one_part_however_many_there_are():
    some = records(perfect)
    more = [
        *some,
        *(replace(record(case, "no_image_locality", 0.0), question=f"{n} ?") for case in range(5) for n in "abc"),
    ]
    # The near part has five probes that stay and fifteen that do not.
    assert overall(more, SCORES["gain"]).mean == pytest.approx((3 - 0.75) / 6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=6, max_size=6), min_size=3, max_size=12))
def test_the_score_is_the_mean_of_the_parts_and_its_interval_holds_it(scores):
    found = overall(records(scores), SCORES["gain"])
    columns = list(zip(*scores, strict=True))
    gains = [
        sum(column) / len(column) - (kind.endswith("_locality")) for kind, column in zip(KINDS, columns, strict=True)
    ]
    assert found.mean == pytest.approx(sum(gains) / 6)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert found.n == len(scores)
    ahead = lead(records(scores), records([[0.0] * 6] * len(scores)), SCORES["gain"])
    assert ahead.mean == pytest.approx(sum(map(sum, scores)) / 6 / len(scores))
    assert lead(records(scores), records(scores), SCORES["gain"]).high == 0.0


def test_editors_that_were_measured_on_other_probes_are_not_compared():
    assert lead(records(perfect), records(perfect)[1:], SCORES["gain"]) is None


def test_of_answers_that_were_not_asked_for_nothing_is_said():
    silent = [replace(one, free_exact_before=None, free_exact_after=None) for one in records(perfect)]
    assert overall(silent, SCORES["gain"]).n == 0
    assert overall(silent, SCORES["published"]).mean == 1.0


def test_the_drop_in_an_unusual_look_is_within_cases_that_have_both():
    rows = [(0, 1.0, 1.0), (1, 1.0, 0.0), (2, 0.0, 0.0), (3, 1.0, 0.0)]
    both = [
        record(case, kind, after)
        for case, usual, unusual in rows
        for kind, after in (("image_generality", usual), ("ood_generality", unusual))
    ]
    alone = [record(9, "image_generality", 1.0), record(10, "ood_generality", 1.0)]
    found = drop(both + alone)
    assert (found.n, found.mean) == (4, 0.5)
    assert found.low <= 0.5 <= found.high
    assert drop(alone).n == 0
