"""Results as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType

    from vlmend.evaluation.kinds import Kind
    from vlmend.evaluation.proof import Change, Proof, Summary
    from vlmend.evaluation.stats import Estimate
    from vlmend.report.comparison import Groups, Line
    from vlmend.report.content import Report

__all__ = ["Comparison", "cases_table", "comparison_table", "overview_table", "quiet_table", "scores_table"]


_TERMINAL = ("tf_token_acc", "tf_exact", "free_exact")
"""The ways of measuring that fit a terminal."""
_NAMES = 20
"""Columns of text that names of metrics wrap at, at least."""


def quiet_table(title: str, *columns: str) -> Table:
    """A table with few lines and these text columns."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def scores_table(proof: Proof) -> Table:
    """The metrics of one editor, before and after, for a terminal."""
    from vlmend.evaluation.kinds import kind_of
    from vlmend.report.content import MEASURES

    table = quiet_table(f"{proof.method}: before → after in per cent, 95 % interval", "", "n")
    for name in _TERMINAL:
        table.add_column(MEASURES[name], justify="right")
    for summary in proof.summary.values():
        kind = kind_of(summary.kind)
        cells = [_cell(getattr(summary, name), kind) for name in _TERMINAL]
        table.add_row(f"{kind.name} ({kind.short})", str(summary.n), *cells)
    return table


def comparison_table(proofs: Sequence[Proof], groups: Groups | None = None) -> Table:
    """All editors side by side by the protocol's score.

    Groups of cases follow apart, by what must change and the mean gain; without any given, natural errors and made-up
    targets, where the cases have both.
    """
    from vlmend.report.comparison import compared, sections, together

    title = f"{proofs[0].protocol.title}: per cent after the edit"
    table = quiet_table(title, "")
    for column in ("n", "before", *(proof.method for proof in proofs)):
        table.add_column(column, justify="right", no_wrap=True)
    table.caption = (
        "[95 % interval]; below it the gain over the unedited model, or KL(before || after) in nats; "
        "of means over several metrics, what an editor is ahead of the first by"
    )
    table.caption_justify = "left"
    _add_lines(table, compared([proof.summary for proof in proofs]))
    for section in sections(proofs, groups):
        table.add_section()
        table.add_row(Text(section.title, "italic"))
        _add_lines(table, [line for line in section.lines if not line.kind.keeps and not line.gated])
        table.add_row(section.gain.title, "", "", *map(_overall, section.gain.scores, section.gain.leads))
    table.add_section()
    for one in together(proofs):
        table.add_row(one.title, "", "", *map(_overall, one.scores, one.leads))
    table.add_section()
    table.add_row("Seconds per edit", "", "", *(_cost(proof, "seconds", ".2f") for proof in proofs))
    table.add_row("Peak memory, MB", "", "", *(_cost(proof, "peak_mb", ".0f") for proof in proofs))
    return table


class Comparison:
    """`comparison_table` where the terminal is wide enough for it, else `overview_table` and where the rest is."""

    def __init__(self, proofs: Sequence[Proof], groups: Groups | None = None) -> None:
        self.proofs = proofs
        self.groups = groups

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        whole = comparison_table(self.proofs, self.groups)
        needed = _width(whole)
        if needed <= options.max_width:
            whole.columns[0].min_width = _NAMES
            yield whole
        else:
            yield overview_table(self.proofs)
            yield Text(f"Intervals, gains and costs: in the report, or here at {needed} columns.\n", "dim")


def _width(table: Table) -> int:
    """The columns that it needs, if only its first may wrap."""
    numbers = list(table.columns)[1:]
    widest = (max(cell_len(line) for cell in column.cells for line in str(cell).split("\n")) for column in numbers)
    return _NAMES + 4 + sum(widest) + 3 * len(numbers)


def overview_table(proofs: Sequence[Proof]) -> Table:
    """The protocol's score after the edit, one line an editor and one column a kind of probe: fits 80 characters."""
    from vlmend.evaluation.kinds import kind_of
    from vlmend.report.words import percent

    table = quiet_table(f"{proofs[0].protocol.title}: per cent after the edit", "")
    first = proofs[0].summary
    for kind in first:
        table.add_column(kind_of(kind).short, justify="right", no_wrap=True)
    table.padding = 0
    table.add_row(*(Text(word, "dim") for word in ("n", *(str(summary.n) for summary in first.values()))))
    before = (percent(summary.score.before) for summary in first.values())
    table.add_row(*(Text(word, "dim") for word in ("before", *before)))
    for proof in proofs:
        found = (proof.summary.get(kind) for kind in first)
        table.add_row(proof.method, *("–" if one is None else percent(one.score.after) for one in found))
    return table


def _add_lines(table: Table, lines: Sequence[Line]) -> None:
    from vlmend.report.words import percent

    for line in lines:
        name = f"  {line.kind.short} where recognised" if line.gated else f"{line.kind.name} ({line.kind.short})"
        before = "" if line.kind.keeps else percent(line.first.score.before)
        table.add_row(name, str(line.first.n), before, *(_compared(cell) for cell in line.cells))


def _compared(cell: Summary | None) -> Text:
    from vlmend.report.words import bounds, gain, nats, percent

    if cell is None:
        return Text("–", "dim")
    score = cell.score
    below = nats(cell.kl) if cell.kl is not None else gain(score.gain)
    return Text.assemble(
        (percent(score.after), "bold"), (f" [{bounds(score.after)}]" if score.after.n else "", "dim"),
        (f"\n{below}" if below else "", "dim"),
    )  # fmt: skip


def _overall(score: Estimate, ahead: Estimate | None) -> Text:
    from vlmend.report.words import bounds, gain, percent

    below = f"\n{gain(ahead)}" if ahead is not None else ""
    return Text.assemble((percent(score), "bold"), (f" [{bounds(score)}]" if score.n else "", "dim"), (below, "dim"))


def _cost(proof: Proof, name: str, form: str) -> str:
    from vlmend.report.content import cost_of

    value = getattr(cost_of(proof), name)
    return "–" if value is None else format(value, form)


def _cell(change: Change, kind: Kind) -> Text:
    from vlmend.report.words import bounds, percent

    before = "" if kind.keeps else f"{percent(change.before)} → "
    return Text.assemble((before, "dim"), (percent(change.after), "bold"), (f"  [{bounds(change.after)}]", "dim"))


def cases_table(report: Report) -> Table:
    """Case by case what the model says after the first editor's edit, and which of MMEdit's probes went well."""
    from vlmend.data.records import PUBLISHED
    from vlmend.evaluation.kinds import RELIABILITY, kind_of
    from vlmend.report.content import cards, kinds_in

    shown = cards(report)
    kinds = [k for k in kinds_in(probe.kind for card in shown for probe in card.probes) if k in PUBLISHED]
    table = quiet_table("The same questions after one edit each", "#", "Question", "Right", "The model says now")
    for kind in (RELIABILITY, *kinds):
        table.add_column(kind_of(kind).short, justify="center", no_wrap=True)
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
