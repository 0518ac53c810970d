"""What a report shows, as plain values: no model, no template, no picture format.

Report
  EditorScores     one per editor: five MetricRows, seconds and memory per edit
    MetricRow      one metric, measured in several ways
      Measure      before and after, each an Interval
  CaseCard         one per case: the picture, the answers, the probes
    ProbeRow       one question asked before and after
      Verdict      what one editor's model said, and whether that is as it should be
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from PIL.Image import Image

__all__ = [
    "KINDS",
    "MEASURES",
    "CaseCard",
    "EditorScores",
    "Interval",
    "Kind",
    "Measure",
    "MetricRow",
    "Picture",
    "ProbeRow",
    "Report",
    "Verdict",
    "kind_of",
]

Picture: TypeAlias = Path | Image

MEASURES: Mapping[str, str] = {
    "forced_token": "Teacher-forced tokens",
    "forced_exact": "Teacher-forced exact",
    "free_exact": "Free generation",
}
"""The ways a metric is measured, in the order in which they are shown."""


@dataclass(frozen=True)
class Kind:
    """A kind of probe: what it is called and what it asks of an edit."""

    short: str
    name: str
    meaning: str
    keeps: bool = False
    """True where the edit must leave the answer alone (locality)."""


KINDS: Mapping[str, Kind] = {
    "reliability": Kind("Rel", "Reliability", "the corrected question itself"),
    "text_generality": Kind("T-Gen", "Text generality", "the same question in other words"),
    "image_generality": Kind("M-Gen", "Image generality", "the same content in another picture"),
    "text_locality": Kind("T-Loc", "Text locality", "an unrelated question, no picture", True),
    "image_locality": Kind("M-Loc", "Image locality", "an unrelated picture and question", True),
}
"""The five metrics by the kind of probe that measures them, in reading order."""


def kind_of(name: str) -> Kind:
    """The description of a kind of probe; a kind that is not listed describes itself."""
    return KINDS.get(name) or Kind(name, name.replace("_", " ").capitalize(), "")


@dataclass(frozen=True)
class Interval:
    """A mean over `n` observations with its 95 % interval; all three lie in 0..1."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Measure:
    """One metric measured in one way. `before` is None where it is so by definition (locality)."""

    before: Interval | None
    after: Interval


@dataclass(frozen=True)
class MetricRow:
    """One metric: its kind of probe and every way it was measured, by the names in `MEASURES`."""

    kind: str
    measures: Mapping[str, Measure]

    @property
    def n(self) -> int:
        """How many questions it was measured on."""
        return max(measure.after.n for measure in self.measures.values())


@dataclass(frozen=True)
class EditorScores:
    """What one editor reached over all cases, and what an edit costs."""

    editor: str
    settings: str
    metrics: tuple[MetricRow, ...]
    seconds_per_edit: float | None = None
    peak_mb: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What the edited model said to one question."""

    answer: str
    passed: bool


@dataclass(frozen=True)
class ProbeRow:
    """One question of a case, asked of the base model and of every edited model."""

    kind: str
    question: str
    expected: str
    before: str
    after: tuple[Verdict, ...]
    picture: Picture | None = None
    """Only where it differs from the picture of the case."""


@dataclass(frozen=True)
class CaseCard:
    """One case: what was asked, what the model said, what it should say, what it says now."""

    id: str
    question: str
    wrong: str
    right: str
    after: tuple[Verdict, ...]
    picture: Picture | None
    probes: tuple[ProbeRow, ...]


@dataclass(frozen=True)
class Report:
    """Everything on the page. `after` in cards and rows runs parallel to `editors`."""

    title: str
    model: str
    editors: tuple[EditorScores, ...]
    cases: tuple[CaseCard, ...]
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    command: str = ""
    created: str = ""
    total_cases: int | None = None
    """How many cases were measured, where not every one has a card."""
