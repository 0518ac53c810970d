"""One number for an editor, of which it is said beforehand what it is made of, and what editors differ by in it.

A score is a mean over parts, each a mean over probes: no kind of probe counts for more because there are more of it.
Intervals are those of a bootstrap over cases, all of whose probes are drawn together; two editors that were measured on
the same cases are compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    NO_IMAGE_LOCALITY,
    OOD_GENERALITY,
    SAME_IMAGE_LOCALITY,
    SAME_QUESTION_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
)
from vlmend.evaluation.kinds import RELIABILITY
from vlmend.evaluation.record import ProbeRecord
from vlmend.evaluation.stats import DRAWS, SEED, Estimate, paired

__all__ = ["SCORES", "OverallScore", "drop", "lead", "overall"]


@dataclass(frozen=True)
class OverallScore:
    """What is averaged.

    Attributes:
        title: what it is called in tables.
        parts: each some kinds of probes.
        value: of one probe; ``None`` where it has none.
    """

    title: str
    parts: tuple[tuple[str, ...], ...]
    value: Callable[[ProbeRecord], float | None]


def _free_gain(record: ProbeRecord) -> float | None:
    before, after = record.free_exact_before, record.free_exact_after
    return None if before is None or after is None else after - before


def _forced(record: ProbeRecord) -> float | None:
    return record.tf_token_acc_after


_CHANGES = ((RELIABILITY,), (TEXT_GENERALITY,), (IMAGE_GENERALITY,))
_PUBLISHED = (*_CHANGES, (TEXT_LOCALITY,), (IMAGE_LOCALITY,))
_NEAR = (SAME_IMAGE_LOCALITY, SAME_QUESTION_LOCALITY, NO_IMAGE_LOCALITY)

SCORES: Mapping[str, OverallScore] = {
    "gain": OverallScore("Mean gain (free answers)", (*_PUBLISHED, _NEAR), _free_gain),
    "published": OverallScore("Published mean (teacher-forced)", _PUBLISHED, _forced),
    "published without T-Loc": OverallScore("Published mean without T-Loc", (*_CHANGES, (IMAGE_LOCALITY,)), _forced),
}
"""Name -> score. ``gain``: free answers, what they gain over the unedited model; locality can only lose. It is 0 for an
editor that does nothing, and at most a half where the model was wrong about everything. ``published``: the mean of
MMEdit's five metrics (arXiv 2310.08475), as VisEdit's tables have it; T-Loc is whole by construction for editors that
leave questions without a picture alone."""


def overall(records: Sequence[ProbeRecord], score: OverallScore) -> Estimate:
    """The score of an editor with its 95 % interval; a part that has no probes is left out."""
    means, drawn = _drawn(_tally(records, score))
    return _estimate(means, drawn, len({record.case for record in records}))


def lead(one: Sequence[ProbeRecord], other: Sequence[ProbeRecord], score: OverallScore) -> Estimate | None:
    """How much better the first of two editors is; ``None`` if they were not measured on the same probes."""
    if [(r.case, r.kind, r.question) for r in one] != [(r.case, r.kind, r.question) for r in other]:
        return None
    (means, drawn), (others, others_drawn) = (_drawn(_tally(records, score)) for records in (one, other))
    return _estimate(means - others, drawn - others_drawn, len({record.case for record in one}))


def drop(records: Sequence[ProbeRecord]) -> Estimate:
    """What image generality loses in an unusual look: M-Gen less O-Gen by free answers, a case against itself."""
    found = {kind: _by_case(records, kind) for kind in (IMAGE_GENERALITY, OOD_GENERALITY)}
    usual, unusual = found.values()
    both = [case for case in usual if case in unusual]
    return paired([usual[case] - unusual[case] for case in both], both)


def _by_case(records: Sequence[ProbeRecord], kind: str) -> dict[str, float]:
    """Mean of a case's probes of one kind."""
    scored: dict[str, list[float]] = {}
    for record in records:
        if record.kind == kind and record.free_exact_after is not None:
            scored.setdefault(record.case, []).append(record.free_exact_after)
    return {case: sum(some) / len(some) for case, some in scored.items()}


def _tally(records: Sequence[ProbeRecord], score: OverallScore) -> np.ndarray:
    """Of every part and case the sum of the values and how many they are, [part, case, 2]."""
    cases = {case: place for place, case in enumerate(dict.fromkeys(record.case for record in records))}
    parts = {kind: place for place, kinds in enumerate(score.parts) for kind in kinds}
    tally = np.zeros((len(score.parts), len(cases), 2))
    for record in records:
        value = score.value(record) if record.kind in parts else None
        if value is not None:
            tally[parts[record.kind], cases[record.case]] += (value, 1.0)
    return tally[tally[..., 1].sum(1) > 0]


def _drawn(tally: np.ndarray) -> tuple[float, np.ndarray]:
    """The score, and that of every draw of cases."""
    if not len(tally):
        return float("nan"), np.full(DRAWS, np.nan)
    count = tally.shape[1]
    places = np.random.default_rng(SEED).integers(0, count, size=(DRAWS, count))
    weights = np.stack([np.bincount(row, minlength=count) for row in places])
    sums, counts = np.einsum("dc,pcv->vdp", weights, tally)
    with np.errstate(invalid="ignore"):
        means, known = sums / counts, counts > 0
        drawn = np.where(known, means, 0).sum(1) / known.sum(1)
    return float((tally[..., 0].sum(1) / tally[..., 1].sum(1)).mean()), drawn


def _estimate(mean: float, drawn: np.ndarray, cases: int) -> Estimate:
    if np.isnan(mean):
        return Estimate(0, mean, mean, mean)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(cases, mean, float(low), float(high))
