"""The evaluator of edits: what they change, what follows from that, and what they should leave alone.

Case by case, so that all editors share what does not depend on them: the probes in padded batches, their pictures
encoded once, what the model does before an edit, and what it makes of pictures below the layer where an edit begins to
act.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmend.data.records import EditCase, Example, Probe
from vlmend.editors.base import Editor, check_cases, settings_of
from vlmend.edits.edit import Edit, library_versions
from vlmend.errors import EditError
from vlmend.evaluation.cost import measured
from vlmend.evaluation.kinds import RELIABILITY, kind_of
from vlmend.evaluation.observing import Observed, Watch
from vlmend.evaluation.proof import EditCost, Proof
from vlmend.evaluation.protocols import DEFAULT, Protocol, protocol_of
from vlmend.evaluation.record import ProbeRecord
from vlmend.evaluation.scoring import record_of
from vlmend.evaluation.text import matches
from vlmend.models.outputs import Reply
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM
from vlmend.runs import Log

__all__ = ["Proof", "at_once_by", "compare", "evaluate"]


def evaluate(
    vlm: VLM,
    edit: Edit | Editor,
    cases: Sequence[EditCase],
    *,
    protocol: Protocol | str = DEFAULT,
    max_new_tokens: int = 32,
    gains: bool = True,
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
        max_new_tokens: bound on the free answers; 0 to ask for none.
        gains: ask the unedited model everything. Else only what must stay as it was and what probes rest on, as the
            published evaluators do: quicker, with no scores before an edit where an answer should change.
        run: where finished cases are found and each new one is added as it happens; a `Run` or a part of one.
        on_edit: called with every case, as the protocol puts it, and the edit made for it.
        progress: called with (finished, all) cases.

    Raises:
        EditError: there are no cases, two have one id, a request has no target, or the protocol counts free answers
            and there are to be none.
        FingerprintError: the edit is of another model.
        UnknownNameError: there is no protocol of that name.
    """
    return compare(
        vlm,
        [edit],
        cases,
        protocol=protocol,
        max_new_tokens=max_new_tokens,
        gains=gains,
        runs=None if run is None else [run],
        on_edit=on_edit,
        progress=progress,
    )[0]


def compare(
    vlm: VLM,
    edits: Sequence[Edit | Editor],
    cases: Sequence[EditCase],
    *,
    protocol: Protocol | str = DEFAULT,
    max_new_tokens: int = 32,
    gains: bool = True,
    runs: Sequence[Log] | None = None,
    on_edit: Callable[[EditCase, Edit], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Proof, ...]:
    """Measure several edits or editors on the same cases; what does not depend on them is computed once.

    Args and errors are those of `evaluate`; ``runs`` has one log for each edit or editor, and progress is counted in
    cases of one.
    """
    protocol = protocol_of(protocol) if isinstance(protocol, str) else protocol
    _check(vlm, edits, cases, protocol, max_new_tokens)
    logs: Sequence[Log | None] = runs or [None] * len(edits)
    results = [{one["case"]: _Result.restored(one) for one in (log.records if log else [])} for log in logs]
    evaluator = _Evaluator(vlm, max_new_tokens, gains, on_edit)
    for case in cases:
        missing = [place for place, found in enumerate(results) if case.id not in found]
        measured_now = evaluator.case(protocol.worded(case), [edits[place] for place in missing]) if missing else []
        for place, result in zip(missing, measured_now, strict=True):
            results[place][case.id] = result
            if (log := logs[place]) is not None:
                log.append({"case": case.id, **asdict(result)})
            if progress is not None:
                progress(sum(map(len, results)), len(cases) * len(edits))
    proofs = tuple(
        _proof(vlm, edit, protocol, [found[case.id] for case in cases])
        for edit, found in zip(edits, results, strict=True)
    )
    for log, proof in zip(logs, proofs, strict=True):
        if log is not None:
            log.finish(proof.metrics)
    return proofs


def at_once_by(vlm: VLM, editor: Editor, cases: Sequence[EditCase], protocol: Protocol = DEFAULT) -> Edit:
    """An editor's one edit for the requests of all cases, as a protocol puts them: they are in force at once."""
    return editor.fit(vlm, [protocol.worded(case) for case in cases])


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


def _proof(vlm: VLM, edit: Edit | Editor, protocol: Protocol, results: Sequence[_Result]) -> Proof:
    given = isinstance(edit, Edit)
    return Proof(
        model=vlm.name,
        fingerprint=vlm.fingerprint,
        method=edit.method if given else edit.name,
        settings=dict(edit.settings if given else settings_of(edit)),
        mode="given" if given else "single",
        protocol=protocol,
        records=tuple(record for result in results for record in result.records),
        costs=tuple(cost for result in results for cost in result.costs),
        versions=library_versions(),
    )


@dataclass(frozen=True)
class _Evaluator:
    vlm: VLM
    max_new_tokens: int
    gains: bool
    on_edit: Callable[[EditCase, Edit], None] | None

    def case(self, case: EditCase, edits: Sequence[Edit | Editor]) -> list[_Result]:
        """Measure every edit on one case.

        Numbers do not depend on which other edits are measured, to the last bit: what shares a batch shares its
        rounding, and the batches are those of the case.
        """
        with self.vlm.sharing():
            probes = _probes(case)
            premises = [premise for probe in probes for premise in probe.premises]
            asked = self.vlm.prepare([*(probe.example for probe in probes), *premises])
            self.vlm.encode(asked)
            stay = {place for place, probe in enumerate(probes) if kind_of(probe.kind).keeps}
            watch = Watch(
                self.vlm,
                asked,
                _guesses(case, probes, premises) if self.max_new_tokens else None,
                watched=len(probes),
                unasked=() if self.gains else set(range(len(probes))) - stay,
                distributions=stay,
                max_new_tokens=self.max_new_tokens,
            )
            made = [self._made(edit, case) for edit in edits]  # each from what has been run by now
            rows = asked.rows[: len(probes)]
            recognised = _recognised(probes, watch.replies)
            return [
                _Result(_records(case, probes, rows, watch.before, watch.after(edit), recognised), costs)
                for edit, costs in made
            ]

    def _made(self, edit: Edit | Editor, case: EditCase) -> tuple[Edit, tuple[EditCost, ...]]:
        if isinstance(edit, Edit):
            return edit, ()
        with measured(self.vlm.device) as cost:
            made = edit.fit(self.vlm, [case])
        if self.on_edit is not None:
            self.on_edit(case, made)
        return made, (EditCost(case.id, made.id, cost.seconds, cost.peak_mb),)


def _records(
    case: EditCase,
    probes: Sequence[Probe],
    rows: Sequence[Row],
    before: Sequence[Observed | None],
    after: Sequence[Observed],
    recognised: Sequence[bool | None],
) -> tuple[ProbeRecord, ...]:
    together = zip(probes, rows, before, after, recognised, strict=True)
    return tuple(
        record_of(case, probe, row.target_N[: row.answer_length].tolist(), said, says, recognised=known)
        for probe, row, said, says, known in together
    )


def _guesses(case: EditCase, probes: Sequence[Probe], premises: Sequence[Example]) -> list[tuple[str, ...]]:
    """What the model may answer beside the right answers: where it should change, what it said when it was wrong."""
    wrong = () if case.rejected is None else (case.rejected,)
    return [() if kind_of(probe.kind).keeps else wrong for probe in probes] + [() for _ in premises]


def _recognised(probes: Sequence[Probe], replies: Sequence[Reply] | None) -> list[bool | None]:
    """For every probe whether the answers to its premises are right; ``None`` where that is not told."""
    if replies is None:
        return [None] * len(probes)
    said = iter(replies)
    right = [[matches(next(said).text, premise.accepted) for premise in probe.premises] for probe in probes]
    return [all(some) if some else None for some in right]


def _probes(case: EditCase) -> list[Probe]:
    """The request, then the probes that ask something."""
    return [Probe(RELIABILITY, case.request), *(probe for probe in case.probes if probe.example.question)]


def _check(
    vlm: VLM, edits: Sequence[Edit | Editor], cases: Sequence[EditCase], protocol: Protocol, max_new_tokens: int
) -> None:
    check_cases(cases)
    ids = Counter(case.id for case in cases)
    if repeated := [name for name, count in ids.items() if count > 1]:
        raise EditError(f"several cases have the id '{repeated[0]}'")
    if not max_new_tokens and protocol.free:
        raise EditError(f"the protocol '{protocol.name}' counts free answers, so max_new_tokens cannot be 0")
    for edit in edits:
        if isinstance(edit, Edit):
            vlm.check(edit)
