"""The method table: all editors on one backbone and task, beside what papers report of them, and where they differ.

A remark is made of every two editors whose order in a metric is the other way round here, where the paper's numbers are
further apart than `APART` and ours as well; it says where the intervals of ours overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from vlmend.evaluation.kinds import KINDS, kind_of
from vlmend.evaluation.overall import SCORES, drop, overall
from vlmend.evaluation.proof import Change, Proof
from vlmend.evaluation.published import Report
from vlmend.evaluation.stats import Estimate
from vlmend.report.content import cost_of
from vlmend.report.words import bounds, percent

__all__ = ["APART", "method_table", "remarks"]

APART = 5.0
"""In percentage points: what is nearer than that has no order."""


def method_table(title: str, proofs: Sequence[Proof], reports: Sequence[Report]) -> str:
    """A section in Markdown.

    Args:
        title: of the section.
        proofs: one for each editor, on the same cases.
        reports: what papers have of them; none where no paper has the backbone.
    """
    first = proofs[0].summary
    kinds = [kind for kind in KINDS if kind in first]
    changes, stays = ([kind for kind in kinds if kind_of(kind).keeps is keeps] for keeps in (False, True))
    lines = [f"## {title}", ""]
    lines += _table(
        proofs, changes, reports, ["O-Gen drop", "mean gain", "s an edit", "process peak MB"], _of_the_whole
    )
    lines += ["", "What is to stay:", ""]
    lines += _table(proofs, stays, reports)
    for report in reports:
        told = [f"* {one}" for one in remarks(proofs, report)]
        lines += ["", f"Two editors in another order than in {report.source}:" if told else _agrees(report)]
        lines += ["", *told] if told else []
    return "\n".join([*lines, ""])


def _table(
    proofs: Sequence[Proof],
    kinds: Sequence[str],
    reports: Sequence[Report],
    more: Sequence[str] = (),
    rest: Callable[[Proof], Sequence[str]] = lambda _: (),
) -> list[str]:
    """Lines: of every editor the scores of some kinds of probe, more, and what reports have of those kinds."""
    quoted = [_only(report, kinds) for report in reports if {*report.metrics} & {*kinds}]
    more = [*more, *(f"{one.source}: {' / '.join(kind_of(kind).short for kind in one.metrics)}" for one in quoted)]
    columns = ["editor", *(kind_of(kind).short for kind in kinds), *more]
    changes = [proofs[0].summary[kind] for kind in kinds]
    before = [f"{percent(one.tf_exact.before)} / {percent(one.free_exact.before)}" for one in changes]
    return [
        _row(*columns),
        _row(*["---"] * len(columns)),
        _row("*before*", *before, *[""] * len(more)),
        *(
            _row(
                f"`{proof.method}`",
                *(_cell(proof, kind) for kind in kinds),
                *rest(proof),
                *(" / ".join(f"{n:.0f}" for n in one.numbers.get(proof.method, ())) for one in quoted),
            )
            for proof in proofs
        ),
    ]


def _only(report: Report, kinds: Sequence[str]) -> Report:
    """What a report has of some kinds of probe."""
    places = [place for place, kind in enumerate(report.metrics) if kind in kinds]
    numbers = {name: tuple(row[place] for place in places) for name, row in report.numbers.items()}
    return Report(report.source, tuple(report.metrics[place] for place in places), numbers)


def _of_the_whole(proof: Proof) -> list[str]:
    """What an unusual look loses, the mean gain, and what an edit costs."""
    lost, mean, cost = drop(proof.records), overall(proof.records, SCORES["gain"]), cost_of(proof)
    return [
        f"{100 * lost.mean:.0f} ({bounds(lost)})" if lost.n else "",
        f"{100 * mean.mean:.1f} ({bounds(mean)})" if mean.n else "",
        "" if cost.seconds is None else format(cost.seconds, ".2g"),
        "" if cost.peak_mb is None else format(cost.peak_mb, ".0f"),
    ]


def _agrees(report: Report) -> str:
    return f"No two editors {APART:.0f} points apart in both stand in another order than in {report.source}."


def remarks(proofs: Sequence[Proof], report: Report) -> Iterator[str]:
    """One line for every metric and two editors whose order is another than in the paper."""
    known = [proof for proof in proofs if proof.method in report.numbers]
    for place, kind in enumerate(report.metrics):
        for one, other in combinations(known, 2):
            if kind not in one.summary or kind not in other.summary:
                continue
            there = [report.numbers[proof.method][place] for proof in (one, other)]
            ours = [proof.summary[kind].tf_exact.after for proof in (one, other)]
            here = [100 * estimate.mean for estimate in ours]
            far = min(abs(there[0] - there[1]), abs(here[0] - here[1])) > APART
            if far and (there[0] > there[1]) != (here[0] > here[1]):
                above, below = (one, other) if here[0] > here[1] else (other, one)
                here.sort(reverse=True)
                there.sort()
                yield (
                    f"{kind_of(kind).short}: `{above.method}` is above `{below.method}` here "
                    f"({here[0]:.0f} and {here[1]:.0f}{', within their intervals' if _overlap(*ours) else ''}), "
                    f"below it there ({there[0]:.0f} and {there[1]:.0f})."
                )


def _overlap(one: Estimate, other: Estimate) -> bool:
    return one.low <= other.high and other.low <= one.high


def _cell(proof: Proof, kind: str) -> str:
    summary = proof.summary.get(kind)
    if summary is None:
        return ""
    return f"{_score(summary.tf_exact)} / {_score(summary.free_exact)}"


def _score(change: Change) -> str:
    inside = bounds(change.after)
    return f"{percent(change.after)} ({inside})" if inside else percent(change.after)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
