"""The evaluator of edits: what they change, what follows from that, and what they should leave alone.

All probes of a case share one padded batch, pictures are encoded once, and what the model does without edits is
computed once and kept by content, for all cases and editors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmend.data.records import EditCase, Probe
from vlmend.editors.base import Editor, check_cases, settings_of
from vlmend.edits.edit import Edit, library_versions
from vlmend.errors import EditError, FingerprintError
from vlmend.evaluation.cost import measured
from vlmend.evaluation.kinds import RELIABILITY, kind_of
from vlmend.evaluation.observing import Baseline, Observed, observe
from vlmend.evaluation.proof import EditCost, Proof
from vlmend.evaluation.protocols import DEFAULT, Protocol, protocol_of
from vlmend.evaluation.record import ProbeRecord
from vlmend.evaluation.scoring import record_of
from vlmend.evaluation.text import matches
from vlmend.models.prepared import Prepared
from vlmend.models.vlm import VLM
from vlmend.runs import Log

__all__ = ["Baseline", "Proof", "evaluate"]

_GROUP = 32  # cases whose pictures are held at once


def evaluate(
    vlm: VLM,
    edit: Edit | Editor,
    cases: Sequence[EditCase],
    *,
    protocol: Protocol | str = DEFAULT,
    max_new_tokens: int = 32,
    baseline: Baseline | None = None,
    run: Log | None = None,
    on_edit: Callable[[EditCase, Edit], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """Measure an edit on cases, or an editor on each case alone.

    Args:
        vlm: the model; left bit for bit as it was.
        edit: an edit, put in force for all cases; or an editor, which makes one for each case.
        cases: what to measure. Probes with an empty question are left out.
        protocol: how questions are put and scored, or its name; see `vlmend.evaluation.protocols`.
        max_new_tokens: bound on the free answers.
        baseline: what the model does before an edit, as far as known; what is missing is added.
        run: where finished cases are found and each new one is added as it happens; a `Run` or a part of one.
        on_edit: called with every case, as the protocol puts it, and the edit made for it.
        progress: called with (finished, all) cases.

    Raises:
        EditError: there are no cases, two have one id, or a request has no target.
        FingerprintError: the edit or the baseline is of another model.
        UnknownNameError: there is no protocol of that name.
    """
    protocol = protocol_of(protocol) if isinstance(protocol, str) else protocol
    _check_ids(cases)
    check_cases(cases)
    worded = [protocol.worded(case) for case in cases]
    evaluator = _Evaluator(vlm, edit, baseline or Baseline(vlm.fingerprint), max_new_tokens, on_edit)
    results = {record["case"]: _Result.restored(record) for record in (run.records if run else [])}
    for case, result in evaluator.results(worded, frozenset(results)):
        results[case.id] = result
        if run is not None:
            run.append({"case": case.id, **asdict(result)})
        if progress is not None:
            progress(len(results), len(cases))
    given = isinstance(edit, Edit)
    proof = Proof(
        model=vlm.name,
        fingerprint=vlm.fingerprint,
        method=edit.method if given else edit.name,
        settings=dict(edit.settings if given else settings_of(edit)),
        mode="given" if given else "single",
        protocol=protocol,
        records=tuple(record for case in cases for record in results[case.id].records),
        costs=tuple(cost for case in cases for cost in results[case.id].costs),
        versions=library_versions(),
    )
    if run is not None:
        run.finish(proof.metrics)
    return proof


@dataclass(frozen=True)
class _Result:
    """What was measured for one case."""

    records: tuple[ProbeRecord, ...]
    costs: tuple[EditCost, ...]

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> _Result:
        """From a run folder's record."""
        probes = tuple(ProbeRecord.restored(one) for one in record["records"])
        return cls(probes, tuple(EditCost(**one) for one in record["costs"]))


@dataclass(frozen=True)
class _Asked:
    """One probe of a case and where its rows are in the group: its own, and those of its premises."""

    probe: Probe
    row: int
    premises: range

    @property
    def keeps(self) -> bool:
        return kind_of(self.probe.kind).keeps


@dataclass(frozen=True)
class _Evaluator:
    vlm: VLM
    edit: Edit | Editor
    baseline: Baseline
    max_new_tokens: int
    on_edit: Callable[[EditCase, Edit], None] | None

    def __post_init__(self) -> None:
        if self.baseline.fingerprint != self.vlm.fingerprint:
            raise FingerprintError(made_for=self.baseline.fingerprint, applied_to=self.vlm.fingerprint)

    def results(self, cases: Sequence[EditCase], finished: Collection[str]) -> Iterator[tuple[EditCase, _Result]]:
        """Case by case, in order, without those that are finished.

        Groups are the same whether or not some of their cases are finished: what shares a batch shares its rounding.
        """
        for start in range(0, len(cases), _GROUP):
            group = cases[start : start + _GROUP]
            if any(case.id not in finished for case in group):
                yield from self._group(group, finished)

    def _group(self, cases: Sequence[EditCase], finished: Collection[str]) -> Iterator[tuple[EditCase, _Result]]:
        asked, prepared = self._prepared(cases)
        kept = {one.row for probes in asked for one in probes if one.keeps}
        before = self.baseline.of(self.vlm, prepared, max_new_tokens=self.max_new_tokens, distributions=kept)
        after: Mapping[int, Observed] = {}
        if isinstance(self.edit, Edit):
            after = self._after(self.edit, prepared, [one.row for probes in asked for one in probes], kept)
        for case, probes in zip(cases, asked, strict=True):
            if case.id in finished:
                continue
            costs: tuple[EditCost, ...] = ()
            if not isinstance(self.edit, Edit):
                made, costs = self._made(self.edit, case)
                after = self._after(made, prepared, [one.row for one in probes], kept)
            records = (self._record(case, one, prepared, before, after[one.row]) for one in probes)
            yield case, _Result(tuple(records), costs)

    def _prepared(self, cases: Sequence[EditCase]) -> tuple[list[list[_Asked]], Prepared]:
        """Where every probe and premise of some cases is among the rows; and the rows."""
        examples = [one.example for case in cases for one in _probes(case)]
        row, premise = 0, len(examples)
        asked: list[list[_Asked]] = []
        for case in cases:
            asked.append([])
            for probe in _probes(case):
                asked[-1].append(_Asked(probe, row, range(premise, premise + len(probe.premises))))
                examples += probe.premises
                row, premise = row + 1, premise + len(probe.premises)
        return asked, self.vlm.prepare(examples)

    def _made(self, editor: Editor, case: EditCase) -> tuple[Edit, tuple[EditCost, ...]]:
        with measured(self.vlm.device) as cost:
            made = editor.fit(self.vlm, [case])
        if self.on_edit is not None:
            self.on_edit(case, made)
        return made, (EditCost(case.id, made.id, cost.seconds, cost.peak_mb),)

    def _after(
        self, edit: Edit, prepared: Prepared, rows: Sequence[int], kept: Collection[int]
    ) -> Mapping[int, Observed]:
        """What the model does at some rows with an edit in force."""
        wide = {place for place, row in enumerate(rows) if row in kept}
        some = prepared.take(rows)
        seen = observe(self.vlm, some, edit, max_new_tokens=self.max_new_tokens, distributions=wide)
        return dict(zip(rows, seen, strict=True))

    @staticmethod
    def _record(
        case: EditCase, one: _Asked, prepared: Prepared, before: Sequence[Observed], after: Observed
    ) -> ProbeRecord:
        row = prepared.rows[one.row]
        target = row.target_N[: row.answer_length].tolist()
        said = zip(one.probe.premises, (before[place].text for place in one.premises), strict=True)
        right = [matches(text, premise.accepted) for premise, text in said]
        recognised = all(right) if right else None
        return record_of(case, one.probe, target, before[one.row], after, recognised=recognised)


def _probes(case: EditCase) -> list[Probe]:
    """The request, then the probes that ask something."""
    return [Probe(RELIABILITY, case.request), *(probe for probe in case.probes if probe.example.question)]


def _check_ids(cases: Sequence[EditCase]) -> None:
    ids = Counter(case.id for case in cases)
    repeated = [name for name, count in ids.items() if count > 1]
    if repeated:
        raise EditError(f"several cases have the id '{repeated[0]}'")
