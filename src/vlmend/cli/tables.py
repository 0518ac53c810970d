"""Results as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from vlmend.evaluation.proof import Change, Proof
    from vlmend.report.content import Kind, Report

__all__ = ["cases_table", "quiet_table", "scores_table"]


def quiet_table(title: str, *columns: str) -> Table:
    """A table with few lines and these text columns."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def scores_table(proof: Proof) -> Table:
    """The metrics of one editor, before and after, for a terminal."""
    from vlmend.report.content import MEASURES, kind_of

    table = quiet_table(f"{proof.method}: before → after in per cent, 95 % interval", "", "n")
    for label in MEASURES.values():
        table.add_column(label, justify="right")
    for summary in proof.summary.values():
        kind = kind_of(summary.kind)
        cells = [_cell(getattr(summary, name), kind) for name in MEASURES]
        table.add_row(f"{kind.name} ({kind.short})", str(summary.n), *cells)
    return table


def _cell(change: Change, kind: Kind) -> Text:
    from vlmend.report.words import bounds, percent

    before = "" if kind.keeps else f"{percent(change.before)} → "
    return Text.assemble((before, "dim"), (percent(change.after), "bold"), (f"  [{bounds(change.after)}]", "dim"))


def cases_table(report: Report) -> Table:
    """Case by case what the model says after the first editor's edit, and which probes are as they should be."""
    from vlmend.evaluation.proof import LABELS
    from vlmend.report.content import cards

    shown = cards(report)
    kinds = [kind for kind in LABELS if any(probe.kind == kind for card in shown for probe in card.probes)]
    table = quiet_table("The same questions after one edit each", "#", "Question", "Right", "The model says now")
    for label in ("Rel", *(LABELS[kind] for kind in kinds)):
        table.add_column(label, justify="center", no_wrap=True)
    for number, card in enumerate(shown, 1):
        marks = [
            Text(" ").join(_mark(probe.after[0].passed) for probe in card.probes if probe.kind == kind)
            for kind in kinds
        ]
        answers = (card.question, card.right, card.after[0].answer)
        table.add_row(str(number), *answers, _mark(card.after[0].passed), *marks)
    return table


def _mark(passed: bool) -> Text:
    return Text("✓", "green") if passed else Text("✗", "red")
