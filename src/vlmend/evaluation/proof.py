"""What was measured: a record for every probe, a summary for every metric, and the cost of every edit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, TEXT_GENERALITY, TEXT_LOCALITY
from vlmend.evaluation.stats import Estimate, bootstrap, estimate

__all__ = ["LABELS", "RELIABILITY", "Change", "EditCost", "ProbeRecord", "Proof", "Summary", "summarised"]

RELIABILITY = "reliability"

LABELS = {
    RELIABILITY: "Rel",
    TEXT_GENERALITY: "T-Gen",
    IMAGE_GENERALITY: "M-Gen",
    TEXT_LOCALITY: "T-Loc",
    IMAGE_LOCALITY: "M-Loc",
}
"""Kind of probe -> the metric's name in tables; other kinds go by their own name."""


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """One probe (or the request itself, of kind "reliability") before and after an edit.

    Reliability and generality are scored against the target. Locality is scored against what the model did before,
    so its scores before are 1 by definition. Teacher-forced scores (``tf_``) count the answer's tokens only, neither
    prompt nor end token, and are ``None`` where the probe has no answer.

    Attributes:
        case, kind, question, image, target: what was asked; ``image`` is a file, ``None`` if there is none.
        before, after: the model's own answers (greedy).
        tf_token_acc_before, tf_token_acc_after: share of answer tokens that are most likely, or unchanged.
        tf_exact_before, tf_exact_after: whether all are.
        free_exact_before, free_exact_after: whether the model's own answer is the target (or an alias), or unchanged.
    """

    case: str
    kind: str
    question: str
    image: str | None
    target: str | None
    before: str
    after: str
    tf_token_acc_before: float | None
    tf_token_acc_after: float | None
    tf_exact_before: float | None
    tf_exact_after: float | None
    free_exact_before: float
    free_exact_after: float


@dataclass(frozen=True, slots=True)
class Change:
    """A score before and after, and their paired difference."""

    before: Estimate
    after: Estimate
    gain: Estimate


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric over all probes of a kind."""

    kind: str
    label: str
    n: int
    tf_token_acc: Change
    tf_exact: Change
    free_exact: Change


@dataclass(frozen=True, slots=True)
class EditCost:
    """What making one edit took: wall seconds, and the process's (on a GPU: the device's) peak memory in MiB."""

    case: str
    edit: str
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Proof:
    """The result of `evaluate`.

    Attributes:
        model, fingerprint: the model that was edited.
        method, settings: what made the edits.
        protocol: "single" (each case is edited and measured alone) or "given" (one edit for all cases).
        summary: kind of probe -> its metric, in the order of `LABELS`.
        records: every probe, case by case.
        costs: every edit made; none where one was given.
        versions: of the libraries.
    """

    model: str
    fingerprint: str
    method: str
    settings: Mapping[str, Any]
    protocol: str
    summary: Mapping[str, Summary]
    records: tuple[ProbeRecord, ...]
    costs: tuple[EditCost, ...]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a mean of nothing is null."""
        return _without_nan(asdict(self))

    @property
    def metrics(self) -> dict[str, Any]:
        """The summary as plain JSON values, without records."""
        return _without_nan({kind: asdict(summary) for kind, summary in self.summary.items()})


def summarised(records: Sequence[ProbeRecord]) -> dict[str, Summary]:
    """A summary for every kind of probe, the known ones first."""
    kinds = [*LABELS, *dict.fromkeys(record.kind for record in records)]
    grouped = {kind: [record for record in records if record.kind == kind] for kind in kinds}
    return {kind: _summary(kind, group) for kind, group in grouped.items() if group}


def _summary(kind: str, records: Sequence[ProbeRecord]) -> Summary:
    return Summary(
        kind=kind,
        label=LABELS.get(kind, kind),
        n=len(records),
        tf_token_acc=_change(records, lambda r: r.tf_token_acc_before, lambda r: r.tf_token_acc_after),
        tf_exact=_change(records, lambda r: r.tf_exact_before, lambda r: r.tf_exact_after),
        free_exact=_change(records, lambda r: r.free_exact_before, lambda r: r.free_exact_after),
    )


_Score = Callable[[ProbeRecord], float | None]


def _change(records: Sequence[ProbeRecord], before: _Score, after: _Score) -> Change:
    scored = [(record.case, before(record), after(record)) for record in records]
    pairs = [(case, one, other) for case, one, other in scored if one is not None and other is not None]
    clusters = [case for case, _, _ in pairs]
    return Change(
        before=estimate([one for _, one, _ in pairs], clusters),
        after=estimate([other for _, _, other in pairs], clusters),
        gain=bootstrap([other - one for _, one, other in pairs], clusters),
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
