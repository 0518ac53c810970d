"""The method table: all editors on one backbone and task, beside what a paper reports of them, and where they differ.

A remark is made of every two editors whose order in a metric is the other way round here, where the paper's numbers are
further apart than `APART` and ours as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, OOD_GENERALITY, TEXT_GENERALITY, TEXT_LOCALITY
from vlmend.evaluation.kinds import RELIABILITY, kind_of
from vlmend.evaluation.overall import SCORES, drop, overall
from vlmend.evaluation.proof import Change, Proof
from vlmend.evaluation.published import METRICS, SOURCE, Numbers
from vlmend.report.content import cost_of
from vlmend.report.words import bounds, percent

__all__ = ["APART", "method_table", "remarks"]

APART = 5.0
"""In percentage points: what is nearer than that has no order."""
_COLUMNS = (RELIABILITY, TEXT_GENERALITY, IMAGE_GENERALITY, OOD_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY)


def method_table(title: str, proofs: Sequence[Proof], published: Mapping[str, Numbers]) -> str:
    """A section in Markdown.

    Args:
        title: of the section.
        proofs: one for each editor, on the same cases.
        published: editor -> the paper's numbers; none where no paper has the backbone.
    """
    kinds = [kind for kind in _COLUMNS if kind in proofs[0].summary]
    heads = [kind_of(kind).short for kind in kinds]
    lines = [f"## {title}", ""]
    lines += [
        _row("editor", *heads, "O-Gen drop", "mean gain", "s an edit", "peak MB", *([SOURCE] if published else []))
    ]
    lines += [_row("---", *["---"] * (len(heads) + 4 + bool(published)))]
    first = proofs[0].summary
    base = [f"{percent(first[kind].tf_exact.before)} / {percent(first[kind].free_exact.before)}" for kind in kinds]
    lines += [_row("*before*", *base, "", "", "", "", *([""] if published else []))]
    for proof in proofs:
        cells = [_cell(proof, kind) for kind in kinds]
        mean, cost = overall(proof.records, SCORES["gain"]), cost_of(proof)
        spent = ["" if value is None else format(value, ".2g") for value in (cost.seconds, cost.peak_mb)]
        paper = ["" if proof.method not in published else " / ".join(f"{n:.0f}" for n in published[proof.method])]
        lost = drop(proof.records)
        dropped = f"{100 * lost.mean:.0f} ({bounds(lost)})" if lost.n else ""
        gained = f"{100 * mean.mean:.1f} ({bounds(mean)})" if mean.n else ""
        lines += [_row(f"`{proof.method}`", *cells, dropped, gained, *spent, *(paper if published else []))]
    told = list(remarks(proofs, published))
    if published:
        shorts = " / ".join(kind_of(kind).short for kind in METRICS)
        lines += ["", f"Of the paper: {shorts}."]
        lines += ["", "Where the order of two editors is another than in the paper:" if told else _AGREES, ""]
    return "\n".join([*lines, *(f"* {one}" for one in told), ""])


_AGREES = f"No two editors that are {APART:.0f} points apart in both stand in another order than in the paper."


def remarks(proofs: Sequence[Proof], published: Mapping[str, Numbers]) -> Iterator[str]:
    """One line for every metric and two editors whose order is another than in the paper."""
    known = [proof for proof in proofs if proof.method in published]
    for place, kind in enumerate(METRICS):
        for one, other in combinations(known, 2):
            if kind not in one.summary or kind not in other.summary:
                continue
            there = [published[proof.method][place] for proof in (one, other)]
            here = [100 * proof.summary[kind].tf_exact.after.mean for proof in (one, other)]
            far = min(abs(there[0] - there[1]), abs(here[0] - here[1])) > APART
            if far and (there[0] > there[1]) != (here[0] > here[1]):
                above, below = (one, other) if here[0] > here[1] else (other, one)
                here.sort(reverse=True)
                there.sort()
                yield (
                    f"{kind_of(kind).short}: `{above.method}` is above `{below.method}` here "
                    f"({here[0]:.0f} and {here[1]:.0f}), below it there ({there[0]:.0f} and {there[1]:.0f})."
                )


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
