"""The figures of a diagnosis: bars of layers and modules, and each token with the picture and with a grey one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from vlmend.report.figures import LIGHT, OKABE_ITO, Theme, style

if TYPE_CHECKING:
    from vlmend.attribution.diagnosis import Diagnosis
    from vlmend.attribution.result import Attribution

__all__ = ["modules_figure", "share_figure"]

_MOST_ROWS = 24
_MOST_TICKS = 24
_MANY = 7


def modules_figure(attribution: Attribution, theme: Theme = LIGHT) -> Figure:
    """A method's scores of layers and modules as bars."""
    with rc_context({**style(theme), "axes.prop_cycle": cycler(color=OKABE_ITO)}):
        figure = attribution.plot()
        figure.set_size_inches(7.2, 3.0)
        (axes,) = figure.axes
        count = len(attribution.axes["layer"])
        step = math.ceil(count / _MOST_TICKS)
        axes.set_xticks(range(0, count, step), [str(label) for label in attribution.axes["layer"][::step]])
        axes.set_title(attribution.method, loc="left")
        axes.set_ylabel("share of the logit" if attribution.completeness else "contribution")
        axes.tick_params(length=0)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    return figure


def share_figure(diagnosis: Diagnosis, theme: Theme = LIGHT) -> Figure:
    """Each token's probability with the picture (filled) and with a grey one (hollow)."""
    tokens = [token for one in diagnosis.answers for token in one.tokens[:_MOST_ROWS]]
    with rc_context(style(theme)):
        figure = Figure(
            figsize=(7.2, 1.0 + (0.42 if len(tokens) < _MANY else 0.28) * len(tokens)), layout="constrained"
        )
        axes = figure.subplots()
        for row, token in enumerate(tokens):
            seen, grey = math.exp(token.seen), math.exp(token.grey)
            names = ("with the picture", "with a grey picture") if row == 0 else (None, None)
            axes.plot([grey, seen], [row, row], color=OKABE_ITO[0], lw=1.6, alpha=0.5, zorder=2)
            (ring,) = axes.plot(grey, row, "o", ls="none", ms=7, mew=1.5, zorder=3, label=names[1])
            ring.set_markerfacecolor(theme.ground)
            ring.set_markeredgecolor(theme.faint)
            axes.plot(seen, row, "o", ls="none", ms=8, color=OKABE_ITO[0], zorder=4, label=names[0])
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(len(tokens) - 0.5, -0.5)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        axes.set_yticks(range(len(tokens)), [token.text.strip() or repr(token.text) for token in tokens])
        axes.tick_params(length=0)
        axes.grid(axis="x", zorder=0)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
