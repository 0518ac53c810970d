"""What was measured: a record for every probe, a summary for every metric, and the cost of every edit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from vlmend.evaluation.kinds import KINDS, kind_of
from vlmend.evaluation.protocols import DEFAULT, Protocol, Scores
from vlmend.evaluation.record import ProbeRecord
from vlmend.evaluation.stats import Estimate, bootstrap, estimate, paired

__all__ = ["Change", "EditCost", "ProbeRecord", "Proof", "Summary", "summarised", "without_nan"]


@dataclass(frozen=True, slots=True)
class Change:
    """A score before and after, and their paired difference; of no records where it was not asked before."""

    before: Estimate
    after: Estimate
    gain: Estimate


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric over all probes of a kind.

    Attributes:
        kind, label, n: which, and of how many probes.
        score: what the protocol counts.
        tf_token_acc, tf_exact, free_exact, free_vqa: as in `ProbeRecord`.
        kl: where answers must stay; nats.
        recognised: the same over the probes whose premises the unedited model gets right; ``None`` if none has any.
    """

    kind: str
    label: str
    n: int
    score: Change
    tf_token_acc: Change
    tf_exact: Change
    free_exact: Change
    free_vqa: Change
    kl: Estimate | None
    recognised: Summary | None


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
        mode: "single" (each case is edited and measured alone) or "given" (one edit for all cases).
        protocol: how questions were put, and what counts as the score.
        records: every probe, case by case.
        costs: every edit made; none where one was given.
        versions: of the libraries.
    """

    model: str
    fingerprint: str
    method: str
    settings: Mapping[str, Any]
    mode: str
    records: tuple[ProbeRecord, ...]
    costs: tuple[EditCost, ...]
    versions: Mapping[str, str]
    protocol: Protocol = DEFAULT

    @cached_property
    def summary(self) -> Mapping[str, Summary]:
        """Kind of probe -> its metric, the known kinds first."""
        return summarised(self.records, self.protocol)

    @cached_property
    def apart(self) -> Mapping[str, Mapping[str, Summary]]:
        """Summaries of the model's own errors ("natural") and of made-up targets ("counterfactual"), if both occur."""
        made_up = [record for record in self.records if record.counterfactual]
        natural = [record for record in self.records if not record.counterfactual]
        if not made_up or not natural:
            return {}
        both = {"natural": natural, "counterfactual": made_up}
        return {name: summarised(records, self.protocol) for name, records in both.items()}

    def of(self, cases: Collection[str]) -> Proof:
        """The same of some of the cases, by id."""
        return replace(
            self,
            records=tuple(record for record in self.records if record.case in cases),
            costs=tuple(cost for cost in self.costs if cost.case in cases),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a mean of nothing is null."""
        plain = {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "method": self.method,
            "settings": dict(self.settings),
            "mode": self.mode,
            "protocol": self.protocol.name,
            "summary": self.metrics,
            "apart": self.metrics_apart,
            "records": [asdict(record) for record in self.records],
            "costs": [asdict(cost) for cost in self.costs],
            "versions": dict(self.versions),
        }
        return without_nan(plain)

    @property
    def metrics(self) -> dict[str, Any]:
        """The summary as plain JSON values, without records."""
        return _plain(self.summary)

    @property
    def metrics_apart(self) -> dict[str, Any]:
        """The summaries of `apart` as plain JSON values."""
        return {name: _plain(summary) for name, summary in self.apart.items()}


def summarised(records: Sequence[ProbeRecord], protocol: Protocol = DEFAULT) -> dict[str, Summary]:
    """A summary for every kind of probe, the known ones first."""
    kinds = dict.fromkeys([*KINDS, *(record.kind for record in records)])
    grouped = {kind: [record for record in records if record.kind == kind] for kind in kinds}
    return {kind: _summary(kind, group, protocol) for kind, group in grouped.items() if group}


def _summary(kind: str, records: Sequence[ProbeRecord], protocol: Protocol) -> Summary:
    return _measured(kind, records, protocol, _recognised(kind, records, protocol))


def _recognised(kind: str, records: Sequence[ProbeRecord], protocol: Protocol) -> Summary | None:
    if all(record.recognised is None for record in records):
        return None
    return _measured(kind, [record for record in records if record.recognised], protocol, None)


def _measured(kind: str, records: Sequence[ProbeRecord], protocol: Protocol, recognised: Summary | None) -> Summary:
    divergent = [(record.case, record.kl) for record in records if record.kl is not None]
    return Summary(
        kind=kind,
        label=kind_of(kind).short,
        n=len(records),
        score=_change(records, protocol.score),
        tf_token_acc=_change(records, lambda r: (r.tf_token_acc_before, r.tf_token_acc_after)),
        tf_exact=_change(records, lambda r: (r.tf_exact_before, r.tf_exact_after)),
        free_exact=_change(records, lambda r: (r.free_exact_before, r.free_exact_after)),
        free_vqa=_change(records, lambda r: (r.free_vqa_before, r.free_vqa_after)),
        kl=bootstrap([kl for _, kl in divergent], [case for case, _ in divergent]) if kind_of(kind).keeps else None,
        recognised=recognised,
    )


def _change(records: Sequence[ProbeRecord], score: Callable[[ProbeRecord], Scores]) -> Change:
    scored = [(record.case, *score(record)) for record in records]
    was = [(case, one) for case, one, _ in scored if one is not None]
    now = [(case, other) for case, _, other in scored if other is not None]
    gained = [(case, other - one) for case, one, other in scored if one is not None and other is not None]
    return Change(
        before=estimate(*_columns(was)),
        after=estimate(*_columns(now)),
        gain=paired(*_columns(gained)),
    )


def _columns(scored: Sequence[tuple[str, float]]) -> tuple[list[float], list[str]]:
    """Values, and the cases they belong to."""
    return [value for _, value in scored], [case for case, _ in scored]


def _plain(summary: Mapping[str, Summary]) -> dict[str, Any]:
    return without_nan({kind: asdict(one) for kind, one in summary.items()})


def without_nan(value: Any) -> Any:
    """A value as JSON has it: a mean of nothing is null."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
