"""What a report shows: the proofs of one or more editors on the same cases, put together case by case.

Report                 what was run, and the proof of every editor
  CaseCard             one case: the picture, the answers, the probes
    ProbeRow           one question, asked before and after
      Verdict          what one model said, and whether that is as it should be
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from PIL.Image import Image

from vlmend.data.records import EditCase, Example
from vlmend.evaluation.kinds import KINDS
from vlmend.evaluation.proof import Proof
from vlmend.evaluation.record import ProbeRecord
from vlmend.report.words import printable

__all__ = [
    "MEASURES",
    "CaseCard",
    "Cost",
    "Picture",
    "ProbeRow",
    "Report",
    "Verdict",
    "cards",
    "cost_of",
    "kinds_in",
]

Picture: TypeAlias = Path | Image

MEASURES: Mapping[str, str] = {
    "tf_token_acc": "Teacher-forced tokens",
    "tf_exact": "Teacher-forced exact",
    "free_exact": "Free generation",
    "free_vqa": "Free, VQA-normalised",
}
"""The ways a metric is measured, by the names of a `Summary`, in the order in which they are shown."""

MOST_CARDS = 60


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        title: what was done, in one line.
        proofs: one for each editor, all on the same cases.
        cases: the cases, with their pictures.
        groups: what some of them have in common -> their ids; each group gets scores of its own.
        facts: what else there is to know about the run, by name.
        command: what was typed.
        created: when.
    """

    title: str
    proofs: tuple[Proof, ...]
    cases: tuple[EditCase, ...]
    groups: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    command: str = ""
    created: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a model said to one question, and whether that is as it should be."""

    answer: str
    passed: bool


@dataclass(frozen=True)
class ProbeRow:
    """One question of a case, asked of the base model and of every edited model."""

    kind: str
    question: str
    expected: str
    before: Verdict
    after: tuple[Verdict, ...]
    picture: Picture | None = None
    """Only where it differs from the picture of the case."""


@dataclass(frozen=True)
class CaseCard:
    """One case; in `after`, as in those of its probes, there is one verdict for each editor.

    `right` is the target: what is true, or, `counterfactual`, made up.
    """

    id: str
    question: str
    said: Verdict
    right: str
    counterfactual: bool
    after: tuple[Verdict, ...]
    picture: Picture | None
    probes: tuple[ProbeRow, ...]


def cards(report: Report, most: int = MOST_CARDS) -> list[CaseCard]:
    """The first cases, with the answers of every editor's model to each of their questions."""
    shown = report.cases[:most]
    by_case = [_by_case(proof) for proof in report.proofs]
    return [_card(case, [records[case.id] for records in by_case]) for case in shown]


def _by_case(proof: Proof) -> dict[str, list[ProbeRecord]]:
    grouped: dict[str, list[ProbeRecord]] = {}
    for record in proof.records:
        grouped.setdefault(record.case, []).append(record)
    return grouped


def _card(case: EditCase, per_editor: Sequence[Sequence[ProbeRecord]]) -> CaseCard:
    examples = [case.request, *(probe.example for probe in case.probes if probe.example.question)]
    questions = [_row(case, example, records) for example, *records in zip(examples, *per_editor, strict=True)]
    request, *probes = questions
    return CaseCard(
        id=case.id,
        question=request.question,
        said=request.before,
        right=request.expected,
        counterfactual=case.counterfactual,
        after=request.after,
        picture=next(iter(case.request.pictures), None),
        probes=tuple(probes),
    )


def _row(case: EditCase, example: Example, records: Sequence[ProbeRecord]) -> ProbeRow:
    first = records[0]
    return ProbeRow(
        kind=first.kind,
        question=first.question,
        expected=first.target or "",
        before=_verdict(first.before, first.free_exact_before, first.tf_exact_before),
        after=tuple(_verdict(one.after, one.free_exact_after, one.tf_exact_after) for one in records),
        picture=None if example.image == case.request.image else next(iter(example.pictures), None),
    )


def _verdict(answer: str | None, free: float | None, forced: float | None) -> Verdict:
    """By the model's own answer; where it was asked for none, by what it holds likely."""
    if answer is None:
        return Verdict("(the answer, if fed in)" if forced == 1.0 else "(something else, if fed in)", forced == 1.0)
    return Verdict(printable(answer), free == 1.0)


@dataclass(frozen=True)
class Cost:
    """What an editor's edits took: the mean of their seconds and the largest peak of memory in MiB."""

    edits: int
    seconds: float | None
    peak_mb: float | None


def cost_of(proof: Proof) -> Cost:
    """What the edits of a proof took; nothing is known of edits that were given ready-made."""
    costs = proof.costs
    if not costs:
        return Cost(0, None, None)
    seconds = sum(cost.seconds for cost in costs) / len(costs)
    return Cost(len(costs), seconds, max(cost.peak_mb for cost in costs))


def kinds_in(found: Iterable[str]) -> list[str]:
    """Kinds of probe, each once, the known ones first and in their order."""
    names = dict.fromkeys(found)
    return [kind for kind in KINDS if kind in names] + [kind for kind in names if kind not in KINDS]
