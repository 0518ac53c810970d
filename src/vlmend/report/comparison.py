"""Editors side by side: one line for each metric, one cell for each editor."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vlmend.evaluation.kinds import Kind, kind_of
from vlmend.evaluation.overall import SCORES, drop, lead, overall
from vlmend.evaluation.proof import Proof, Summary
from vlmend.evaluation.stats import Estimate
from vlmend.report.content import kinds_in

__all__ = ["Groups", "Line", "Section", "Together", "compared", "sections", "together"]

Groups = Mapping[str, Collection[str]]
"""What some cases have in common -> their ids."""

DROP = "Lost in an unusual look (M-Gen less O-Gen)"

_TITLES = {
    "natural": "The model's errors: the target is the truth",
    "counterfactual": "Made-up targets: the model was right before",
}


@dataclass(frozen=True)
class Line:
    """One metric of all editors.

    Attributes:
        kind: which.
        gated: whether only those probes count whose premises the unedited model gets right.
        cells: one for each editor; ``None`` where it was not measured.
    """

    kind: Kind
    gated: bool
    cells: tuple[Summary | None, ...]

    @property
    def first(self) -> Summary:
        """A cell that was measured: the number of probes and the scores before are the same in all."""
        return next(cell for cell in self.cells if cell is not None)


def compared(summaries: Sequence[Mapping[str, Summary]]) -> list[Line]:
    """The lines of some editors' summaries; where probes have premises, a gated line follows the whole one."""
    lines: list[Line] = []
    for kind in kinds_in(kind for summary in summaries for kind in summary):
        cells = tuple(summary.get(kind) for summary in summaries)
        lines.append(Line(kind_of(kind), False, cells))
        gated = tuple(cell.recognised if cell else None for cell in cells)
        if any(gated):
            lines.append(Line(kind_of(kind), True, gated))
    return lines


@dataclass(frozen=True)
class Together:
    """One score over several kinds of probes, of all editors.

    Attributes:
        title: which.
        scores: one for each editor.
        leads: what each is ahead of the first by; ``None`` for the first.
    """

    title: str
    scores: tuple[Estimate, ...]
    leads: tuple[Estimate | None, ...]


def together(proofs: Sequence[Proof]) -> list[Together]:
    """The overall scores (`vlmend.evaluation.overall`) of editors that were measured on the same cases.

    What they lose in an unusual look follows, if that was asked.
    """
    first, *others = (proof.records for proof in proofs)
    scores = [
        Together(
            score.title,
            tuple(overall(proof.records, score) for proof in proofs),
            (None, *(lead(records, first, score) for records in others)),
        )
        for score in SCORES.values()
    ]
    drops = tuple(drop(proof.records) for proof in proofs)
    lost = [Together(DROP, drops, (None,) * len(drops))] if any(one.n for one in drops) else []
    return scores + lost


@dataclass(frozen=True)
class Section:
    """The scores of some of the cases.

    Attributes:
        title: what these have in common.
        lines: as of all.
        gain: the overall score "gain" of each editor on them.
    """

    title: str
    lines: list[Line]
    gain: Together


def sections(proofs: Sequence[Proof], groups: Groups | None = None) -> list[Section]:
    """A section for each group of cases; without any, of natural errors and of made-up targets, if both."""
    found: list[Section] = []
    for title, cases in (groups or _by_target(proofs)).items():
        some = [proof.of(cases) for proof in proofs]
        if all(proof.records for proof in some):
            gain, *_ = together(some)
            found.append(Section(title, compared([proof.summary for proof in some]), gain))
    return found


def _by_target(proofs: Sequence[Proof]) -> Groups:
    if not all(proof.apart for proof in proofs):
        return {}
    made_up = {record.case for record in proofs[0].records if record.counterfactual}
    rest = {record.case for record in proofs[0].records} - made_up
    return {_TITLES["natural"]: rest, _TITLES["counterfactual"]: made_up}
