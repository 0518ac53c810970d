"""The evaluator of edits: reliability, generality and locality, before and after, teacher-forced and free.

All probes of a case share one padded batch, pictures are encoded once, and what the model does without edits is
computed once and kept by content, for all cases and editors.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlmend.data.records import EditCase, Probe
from vlmend.editors.base import Editor, check_cases, settings_of
from vlmend.edits.edit import Edit, library_versions
from vlmend.errors import EditError, FingerprintError
from vlmend.evaluation.cost import measured
from vlmend.evaluation.proof import RELIABILITY, EditCost, ProbeRecord, Proof, summarised
from vlmend.evaluation.text import matches, normalised
from vlmend.models.prepared import Prepared, Row
from vlmend.models.vlm import VLM
from vlmend.runs import Log

__all__ = ["Baseline", "Observed", "Proof", "evaluate", "observe"]

_GROUP = 32  # cases whose pictures are held at once
_LOCALITY = "_locality"


@dataclass(frozen=True, slots=True)
class Observed:
    """What a model does at one probe: its own answer, and the most likely tokens at the answer's positions."""

    text: str
    likeliest: tuple[int, ...]


@dataclass
class Baseline:
    """What one model does before an edit, by content of the probe; given to several evaluations it is shared."""

    fingerprint: str
    known: dict[str, Observed] = field(default_factory=dict[str, Observed])


def evaluate(
    vlm: VLM,
    edit: Edit | Editor,
    cases: Sequence[EditCase],
    *,
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
        max_new_tokens: bound on the free answers.
        baseline: what the model does before an edit, as far as known; what is missing is added.
        run: where finished cases are found and each new one is added as it happens; a `Run` or a part of one.
        on_edit: called with every case and the edit made for it.
        progress: called with (finished, all) cases.

    Raises:
        EditError: there are no cases, two have one id, or a request has no target.
        FingerprintError: the edit or the baseline is of another model.
    """
    _check_ids(cases)
    check_cases(cases)
    evaluator = _Evaluator(vlm, edit, baseline or Baseline(vlm.fingerprint), max_new_tokens, on_edit)
    results = {record["case"]: _Result.restored(record) for record in (run.records if run else [])}
    todo = [case for case in cases if case.id not in results]
    for count, (case, result) in enumerate(evaluator.results(todo), 1 + len(cases) - len(todo)):
        results[case.id] = result
        if run is not None:
            run.append({"case": case.id, **asdict(result)})
        if progress is not None:
            progress(count, len(cases))
    records = tuple(record for case in cases for record in results[case.id].records)
    given = isinstance(edit, Edit)
    proof = Proof(
        model=vlm.name,
        fingerprint=vlm.fingerprint,
        method=edit.method if given else edit.name,
        settings=dict(edit.settings if given else settings_of(edit)),
        protocol="given" if given else "single",
        summary=summarised(records),
        records=records,
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
        probes = tuple(ProbeRecord(**one) for one in record["records"])
        return cls(probes, tuple(EditCost(**one) for one in record["costs"]))


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

    def results(self, cases: Sequence[EditCase]) -> Iterator[tuple[EditCase, _Result]]:
        """Case by case, in order; pictures of some cases at a time are held and encoded."""
        for start in range(0, len(cases), _GROUP):
            group = [(case, _asked(case)) for case in cases[start : start + _GROUP]]
            prepared = self.vlm.prepare([one.example for _, asked in group for one in asked])
            before = self._before(prepared)
            after = self._observe(prepared, self.edit) if isinstance(self.edit, Edit) else None
            place = 0
            for case, asked in group:
                rows = range(place, place + len(asked))
                place += len(asked)
                costs: tuple[EditCost, ...] = ()
                if after is None:
                    made, costs = self._made(case)
                    now = self._observe(prepared.take(rows), made)
                else:
                    now = [after[row] for row in rows]
                scored = zip(asked, rows, now, strict=True)
                records = (_record(case, one, prepared.rows[row], before[row], seen) for one, row, seen in scored)
                yield case, _Result(tuple(records), costs)

    def _made(self, case: EditCase) -> tuple[Edit, tuple[EditCost, ...]]:
        assert not isinstance(self.edit, Edit)
        with measured(self.vlm.device) as cost:
            made = self.edit.fit(self.vlm, [case])
        if self.on_edit is not None:
            self.on_edit(case, made)
        return made, (EditCost(case.id, made.id, cost.seconds, cost.peak_mb),)

    def _before(self, prepared: Prepared) -> list[Observed]:
        """What the model does before the edit: each distinct row once, and not at all where it is known."""
        state = f"{self.max_new_tokens} {self.vlm.active_edits}"
        keys = [_content(row, state) for row in prepared.rows]
        known = self.baseline.known
        new = {key: place for place, key in enumerate(keys) if key not in known}
        if new:
            known.update(zip(new, self._observe(prepared.take(list(new.values())), None), strict=True))
        return [known[key] for key in keys]

    def _observe(self, prepared: Prepared, edit: Edit | None) -> list[Observed]:
        return observe(self.vlm, prepared, edit, max_new_tokens=self.max_new_tokens)


def observe(vlm: VLM, prepared: Prepared, edit: Edit | None = None, *, max_new_tokens: int = 32) -> list[Observed]:
    """What the model does at every row, with an edit in force or as it is."""
    with vlm.using(edit):
        forced = vlm.run(prepared).rows
        texts = vlm.generate(prepared, max_new_tokens=max_new_tokens)
    return [
        Observed(text, tuple(row.logits_NV[: row.answer_length].argmax(-1).tolist()))
        for text, row in zip(texts, forced, strict=True)
    ]


def _content(row: Row, state: str) -> str:
    """A hash of all that a row's outputs depend on, but the base model."""
    digest = hashlib.blake2b(f"{state} {row.picture}".encode(), digest_size=16)
    for tensor in (row.ids_T, row.target_N):
        digest.update(f"{len(tensor)} ".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _check_ids(cases: Sequence[EditCase]) -> None:
    ids = Counter(case.id for case in cases)
    repeated = [name for name, count in ids.items() if count > 1]
    if repeated:
        raise EditError(f"several cases have the id '{repeated[0]}'")


def _asked(case: EditCase) -> list[Probe]:
    """The request, then the probes that ask something."""
    return [Probe(RELIABILITY, case.request), *(probe for probe in case.probes if probe.example.question)]


def _record(case: EditCase, probe: Probe, row: Row, before: Observed, after: Observed) -> ProbeRecord:
    """Score one probe: locality against what was before, all else against the target."""
    example = probe.example
    if probe.kind.endswith(_LOCALITY):
        wanted = before.likeliest
        free = (1.0, float(normalised(before.text) == normalised(after.text)))
    else:
        wanted = tuple(row.target_N[: row.answer_length].tolist())
        free = (float(matches(before.text, example.accepted)), float(matches(after.text, example.accepted)))
    return ProbeRecord(
        case=case.id,
        kind=probe.kind,
        question=example.question,
        image=str(example.image) if isinstance(example.image, Path) else None,
        target=example.answer or None,
        before=before.text,
        after=after.text,
        tf_token_acc_before=_share(before.likeliest, wanted),
        tf_token_acc_after=_share(after.likeliest, wanted),
        tf_exact_before=_all(before.likeliest, wanted),
        tf_exact_after=_all(after.likeliest, wanted),
        free_exact_before=free[0],
        free_exact_after=free[1],
    )


def _share(found: Sequence[int], wanted: Sequence[int]) -> float | None:
    equal = [one == other for one, other in zip(found, wanted, strict=True)]
    return sum(equal) / len(equal) if equal else None


def _all(found: Sequence[int], wanted: Sequence[int]) -> float | None:
    return float(found == wanted) if wanted else None
