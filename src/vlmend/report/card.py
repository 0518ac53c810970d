"""One picture per case: what was asked, what the model said, and what it says after the edit."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure

from vlmend.evaluation.kinds import kind_of
from vlmend.models.pictures import open_picture
from vlmend.report.figures import LIGHT, style
from vlmend.report.pictures import is_pixel_art

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vlmend.report.content import CaseCard, Verdict

__all__ = ["case_figure"]

GOOD, BAD = "#0072b2", "#c4501b"
SIZE = (7.6, 3.2)
LINE = 0.083
"""Height of a line of text, in parts of the figure."""


def case_figure(card: CaseCard, editors: Sequence[str]) -> Figure:
    """The case as a figure; `editors` names the columns of `card.after`."""
    with rc_context(style(LIGHT)):
        figure = Figure(figsize=SIZE)
        if card.picture is not None:
            image = open_picture(card.picture)
            axes = figure.add_axes((0.02, 0.05, 0.38, 0.9))
            axes.imshow(image, interpolation="nearest" if is_pixel_art(image) else "antialiased")
            axes.axis("off")
        words = figure.add_axes((0.44, 0.0, 0.55, 1.0))
        words.axis("off")
        words.set_xlim(0, 1)
        words.set_ylim(0, 1)
        _write(words, card, editors)
    return figure


def _write(axes: Axes, card: CaseCard, editors: Sequence[str]) -> None:
    y = 0.93
    y = _line(axes, y, card.question, weight="bold", size=12.5, width=40) - 0.03
    y = _answer(axes, y, "said", card.said.answer, None if card.counterfactual else card.said.passed)
    y = _answer(axes, y, "target" if card.counterfactual else "right", card.right, None)
    for name, verdict in zip(editors, card.after, strict=True):
        y = _answer(axes, y, f"after {name}", verdict.answer, verdict.passed)
    y -= 0.04
    for probe in card.probes:
        short = kind_of(probe.kind).short
        marks = " ".join(_mark(verdict) for verdict in probe.after)
        passed = all(verdict.passed for verdict in probe.after)
        axes.text(0.0, y, marks, color=GOOD if passed else BAD, va="top", size=10.5)
        axes.text(0.06 + 0.05 * len(probe.after), y, short, weight="bold", va="top", size=10.5)
        y = _line(axes, y, probe.question, x=0.24 + 0.05 * len(probe.after), size=10.5, width=38, limit=1)


def _answer(axes: Axes, y: float, label: str, answer: str, passed: bool | None) -> float:
    axes.text(0.0, y, label, color=LIGHT.faint, va="top", size=11)
    mark = {True: "\u2002✓", False: "\u2002✗", None: ""}[passed]
    colour = {True: GOOD, False: BAD, None: LIGHT.text}[passed]
    return _line(axes, y, answer or "(nothing)", mark=mark, x=0.3, colour=colour, size=11.5, width=31, limit=2)


def _line(
    axes: Axes, y: float, text: str, *, x: float = 0.0, width: int = 44, limit: int = 2, mark: str = "",
    colour: str = LIGHT.text, size: float = 11, weight: str = "normal",
) -> float:  # fmt: skip
    """Write at most `limit` lines below `y`; returns where the next line begins."""
    lines = textwrap.wrap(text, width, max_lines=limit, placeholder=" …") or [""]
    lines[-1] += mark
    for number, line in enumerate(lines):
        axes.text(x, y - number * LINE, line, color=colour, va="top", size=size, weight=weight, parse_math=False)
    return y - len(lines) * LINE


def _mark(verdict: Verdict) -> str:
    return "✓" if verdict.passed else "✗"
