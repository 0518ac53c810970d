"""The method table: what stands in it, and where it says that an order is another than in the paper."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vlmend.data.records import IMAGE_LOCALITY, TEXT_GENERALITY, TEXT_LOCALITY
from vlmend.evaluation.kinds import KINDS, RELIABILITY
from vlmend.evaluation.proof import Proof
from vlmend.evaluation.published import REPORTS, Report, reported
from vlmend.evaluation.record import ProbeRecord
from vlmend.report.method_table import method_table, remarks
from vlmend.world.methods import METHODS


def proof(method: str, **shares: int) -> Proof:
    """Ten cases; of each kind so many are right after the edit, and none before."""
    records = [
        ProbeRecord(
            case=str(case),
            kind=kind,
            question="q",
            image=None,
            target="a",
            before="b",
            after="a" if case < right else "b",
            tf_token_acc_before=0.0,
            tf_token_acc_after=float(case < right),
            tf_exact_before=0.0,
            tf_exact_after=float(case < right),
            free_exact_before=0.0,
            free_exact_after=float(case < right),
            free_vqa_before=0.0,
            free_vqa_after=float(case < right),
        )
        for kind, right in shares.items()
        for case in range(10)
    ]
    return Proof("m", "f", method, {}, "single", tuple(records), (), {})


ONE = proof("ft-last", **{RELIABILITY: 9, TEXT_GENERALITY: 5, TEXT_LOCALITY: 10, IMAGE_LOCALITY: 10})
OTHER = proof("mend", **{RELIABILITY: 6, TEXT_GENERALITY: 5, TEXT_LOCALITY: 10, IMAGE_LOCALITY: 10})


METRICS = (RELIABILITY, TEXT_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY)


def paper(**numbers: tuple[float, ...]) -> Report:
    return Report("a paper", METRICS, {name.replace("_", "-"): row for name, row in numbers.items()})


def test_an_order_that_is_another_than_in_the_paper_is_remarked_on() -> None:
    report = paper(ft_last=(60.0, 50.0, 20.0, 3.0), mend=(99.0, 98.0, 100.0, 96.0))
    assert list(remarks([ONE, OTHER], report)) == [
        "Rel: `ft-last` is above `mend` here (90 and 60, within their intervals), below it there (60 and 99)."
    ]
    assert list(remarks([OTHER, ONE], report)) == list(remarks([ONE, OTHER], report))
    worse = proof("mend", **{RELIABILITY: 1})
    assert list(remarks([ONE, worse], report)) == [
        "Rel: `ft-last` is above `mend` here (90 and 10), below it there (60 and 99)."
    ]


@pytest.mark.parametrize(
    "report",
    [
        paper(ft_last=(99.0, 0.0, 0.0, 0.0), mend=(60.0, 0.0, 0.0, 0.0)),  # the same order
        paper(ft_last=(60.0, 0.0, 0.0, 0.0), mend=(64.0, 0.0, 0.0, 0.0)),  # too near to have one
        paper(mend=(99.0, 98.0, 100.0, 96.0)),  # nothing to compare with
    ],
)
def test_no_remark_without_a_difference(report: Report) -> None:
    assert list(remarks([ONE, OTHER], report)) == []
    assert "No two editors 5 points apart in both" in method_table("t", [ONE, OTHER], [report])


def test_the_table_has_forced_and_free_scores_and_the_papers_numbers() -> None:
    one, more = paper(ft_last=(60.0, 50.0, 20.0, 3.0)), Report("another", (RELIABILITY,), {"lora": (7.0,)})
    text = method_table("t", [ONE, replace(OTHER, method="lora")], [one, more])
    changes, stays = [_cells(line) for line in text.splitlines() if line.startswith("| `ft-last`")]
    assert changes[1:3] == ["90 (60–98) / 90 (60–98)", "50 (24–76) / 50 (24–76)"]
    assert changes[-2:] == ["60 / 50", ""]
    assert stays == ["`ft-last`", "100 (72–100) / 100 (72–100)", "100 (72–100) / 100 (72–100)", "20 / 3"]
    other, _ = [_cells(line) for line in text.splitlines() if line.startswith("| `lora`")]
    assert other[-2:] == ["", "7"]
    assert "| process peak MB | a paper: Rel / T-Gen | another: Rel |" in text
    assert "| editor | T-Loc | M-Loc | a paper: T-Loc / M-Loc |\n" in text
    assert "paper" not in method_table("t", [ONE], [])


def test_all_that_was_asked_is_in_the_table() -> None:
    every = proof("lora", **dict.fromkeys(KINDS, 5))
    heads = [_cells(line) for line in method_table("t", [every], []).splitlines() if line.startswith("| editor")]
    shown = [cell for row in heads for cell in row]
    assert [kind.short for kind in KINDS.values()] == [
        cell for cell in shown if cell in {k.short for k in KINDS.values()}
    ]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_published_numbers_are_of_rows_and_metrics_that_there_are() -> None:
    for metrics, numbers in REPORTS.values():
        for (backbone, task), rows in numbers.items():
            assert set(rows) <= METHODS.keys() and reported(backbone, task)
            assert all(len(row) == len(metrics) and all(0 <= n <= 100 for n in row) for row in rows.values())
    assert [one.source[:6] for one in reported("blip2", "evqa")] == ["MMEdit", "EasyEd", "LiveEd"]
    assert reported("llava", "eic") == []
