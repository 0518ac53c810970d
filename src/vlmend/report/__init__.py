"""Figures and the self-contained HTML report of a run."""

from vlmend.report.content import (
    CaseCard,
    EditorScores,
    Interval,
    Measure,
    MetricRow,
    ProbeRow,
    Report,
    Verdict,
)
from vlmend.report.html import render, write

__all__ = [
    "CaseCard",
    "EditorScores",
    "Interval",
    "Measure",
    "MetricRow",
    "ProbeRow",
    "Report",
    "Verdict",
    "render",
    "write",
]
