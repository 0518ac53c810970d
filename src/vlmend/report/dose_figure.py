"""The figure of a dose curve: what is expected and absent, what is made up, and what is left of what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure

from vlmend.evaluation.hallucination.dose import worst
from vlmend.report.figures import LIGHT, Theme, look, style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmend.evaluation.hallucination.dose import Dose

__all__ = ["dose_figure"]

_LINES = {
    "expected": "expected and absent objects that are named",
    "invented": "named objects that are not there (CHAIR_i)",
    "recall": "objects present that are named",
}


def dose_figure(curve: Sequence[Dose], theme: Theme = LIGHT) -> Figure:
    """Each rate against the step, with 95 % intervals, and a line where most of what is expected is named."""
    steps = [dose.step for dose in curve]
    with rc_context(style(theme)):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.subplots()
        for number, (name, label) in enumerate(_LINES.items()):
            rates = [getattr(dose, name) for dose in curve]
            colour, marker = look(number)
            axes.fill_between(steps, [one.low for one in rates], [one.high for one in rates], color=colour, alpha=0.15)
            axes.plot(steps, [one.mean for one in rates], marker=marker, ms=5, color=colour, label=label)
        top = worst(curve)
        axes.axvline(top.step, color=theme.faint, lw=1, ls="--")
        axes.annotate(
            f"t* = {top.step}", (top.step, 1.0), xytext=(5, -3), textcoords="offset points", color=theme.faint
        )
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        axes.set_xlabel("step of noise on the picture")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure
