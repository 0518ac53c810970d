"""One picture per case: what was asked, what the model said, and what it says after the edit."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from vlmend.evaluation.kinds import kind_of
from vlmend.models.pictures import open_picture
from vlmend.report.content import kinds_in
from vlmend.report.figures import LIGHT, style
from vlmend.report.pictures import is_pixel_art

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from vlmend.report.content import CaseCard

__all__ = ["case_figure"]

GOOD, BAD = "#0072b2", "#c4501b"
SIZE = (7.6, 3.2)
PICTURE = (0.02, 0.05, 0.38, 0.9)
WORDS = (0.44, 0.0, 0.55, 1.0)
LINE, SMALL_LINE = 0.083, 0.058
"""Height of a line of text, in parts of the figure."""
GAP, TICK = 0.04, 0.055
"""Between columns, and from one editor's mark to the next, in parts of the words' width."""


def case_figure(card: CaseCard, editors: Sequence[str]) -> Figure:
    """The case as a figure; `editors` names the columns of `card.after`."""
    with rc_context(style(LIGHT)):
        figure = Figure(figsize=SIZE)
        below = 1 - PICTURE[1]
        if card.picture is not None:
            image = open_picture(card.picture)
            axes = figure.add_axes(PICTURE, anchor="NW")
            axes.imshow(image, interpolation="nearest" if is_pixel_art(image) else "antialiased")
            axes.axis("off")
            below -= min(PICTURE[3], PICTURE[2] * SIZE[0] / SIZE[1] * image.height / image.width) + GAP
        _legend(figure, below, card)
        words = figure.add_axes(WORDS)
        words.axis("off")
        words.set_xlim(0, 1)
        words.set_ylim(0, 1)
        y = _answers(words, 0.93, card, editors)
        if card.probes:
            _probes(words, y - 0.04, card, editors)
    return figure


def _legend(figure: Figure, y: float, card: CaseCard) -> None:
    """What the probes' short names mean, below the picture."""
    kinds = [kind_of(kind) for kind in kinds_in(probe.kind for probe in card.probes)]
    lines = [(kind.short, kind.meaning) for kind in kinds if kind.meaning]
    if any(kind.keeps for kind in kinds):
        lines.append(("-Loc", "the answer must stay as it was"))
    for place, (short, meaning) in enumerate(lines):
        for x, text in ((PICTURE[0], short), (PICTURE[0] + 0.075, meaning)):
            figure.text(x, y - place * SMALL_LINE, text, color=LIGHT.faint, va="top", size=8.5)


def _answers(axes: Axes, y: float, card: CaseCard, editors: Sequence[str]) -> float:
    y = _line(axes, y, card.question, weight="bold", size=12.5, width=40) - 0.03
    rows: list[tuple[str, str, bool | None]] = [
        ("said", card.said.answer, None if card.counterfactual else card.said.passed),
        ("target" if card.counterfactual else "right", card.right, None),
    ]
    rows += [(f"after {name}", one.answer, one.passed) for name, one in zip(editors, card.after, strict=True)]
    x = _width([label for label, _, _ in rows], 11) + GAP
    for label, answer, passed in rows:
        axes.text(0.0, y, label, color=LIGHT.faint, va="top", size=11)
        mark = "" if passed is None else f"\u2002{_mark(passed)}"
        colour = LIGHT.text if passed is None else _colour(passed)
        y = _line(axes, y, answer or "(nothing)", mark=mark, x=x, colour=colour, size=11.5, width=31, limit=2)
    return y


def _probes(axes: Axes, y: float, card: CaseCard, editors: Sequence[str]) -> None:
    """A line for each probe: its kind, a mark for each editor, and what is asked."""
    kinds = [kind_of(probe.kind).short for probe in card.probes]
    first = _width(kinds, 10.5, "bold") + GAP
    heads = editors if len(editors) > 1 else ()
    y -= _width(heads, 9) * WORDS[2] * SIZE[0] / SIZE[1] * math.sin(math.radians(45))
    for place, name in enumerate(heads):
        x = first + TICK * (place + 0.4)
        axes.text(x, y + 0.01, name, color=LIGHT.faint, size=9, rotation=45, rotation_mode="anchor")
    last = first + TICK * len(editors) + GAP / 2
    for short, probe in zip(kinds, card.probes, strict=True):
        axes.text(0.0, y, short, weight="bold", va="top", size=10.5)
        for place, one in enumerate(probe.after):
            x = first + TICK * place
            axes.text(x, y, _mark(one.passed), color=_colour(one.passed), va="top", size=10.5)
        y = _line(axes, y, probe.question, x=last, size=10.5, width=38, limit=1)


def _width(texts: Sequence[str], size: float, weight: str = "normal") -> float:
    """Of the widest of these, in parts of the words' width."""
    font = FontProperties(weight=weight)
    points = max((TextPath((0, 0), text, size=size, prop=font).get_extents().width for text in texts), default=0.0)
    return points / 72 / (WORDS[2] * SIZE[0])


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


def _mark(passed: bool) -> str:
    return "✓" if passed else "✗"


def _colour(passed: bool) -> str:
    return GOOD if passed else BAD
