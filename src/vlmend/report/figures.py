"""The figures of a report: few, quiet, readable in grey, safe for colour-blind eyes."""

from __future__ import annotations

import io
import itertools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from vlmend.evaluation.kinds import kind_of
from vlmend.report.content import MEASURES, kinds_in
from vlmend.runs import whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from vlmend.evaluation.proof import Proof
    from vlmend.evaluation.stats import Estimate

__all__ = ["DARK", "LIGHT", "OKABE_ITO", "Theme", "curve", "look", "metrics_figure", "save", "style", "svg"]

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "<", ">", "*", "p", "h")
SHOWN = ("tf_exact", "score")
APART, SPREAD = 0.12, 0.5
"""How far apart series beside one another stand, and all of them at most, in parts of the way to the next point."""


@dataclass(frozen=True)
class Theme:
    """The colours that change between a light and a dark page."""

    text: str
    faint: str
    grid: str
    ground: str


LIGHT = Theme(text="#1f2328", faint="#6b7280", grid="#e3e5e8", ground="#ffffff")
DARK = Theme(text="#e6e8eb", faint="#9aa2ad", grid="#333941", ground="#171a1f")


def style(theme: Theme) -> dict[Any, Any]:
    """Matplotlib settings of every figure."""
    return {
        "font.family": "sans-serif",
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.spines.bottom": False,
        "axes.edgecolor": theme.faint,
        "axes.facecolor": "none",
        "figure.facecolor": theme.ground,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.titlecolor": theme.text,
        "xtick.color": theme.faint,
        "ytick.color": theme.text,
        "ytick.labelsize": 11,
        "xtick.labelsize": 10,
        "grid.color": theme.grid,
        "legend.fontsize": 10.5,
        "svg.hashsalt": "vlmend",
        "svg.fonttype": "path",
    }


def look(number: int) -> tuple[str, str]:
    """Colour and marker of a series by its number: there are 72 pairs, and twelve markers, before one recurs."""
    return OKABE_ITO[number % len(OKABE_ITO)], MARKERS[(number + number // len(MARKERS)) % len(MARKERS)]


def curve(
    axes: Axes, counts: Sequence[int], values: Sequence[float], number: int, series: int, label: str
) -> list[float]:
    """Draw one of several series against numbers of edits, on a logarithmic axis; returns where its points stand.

    They stand a little beside those of the others, and above all lines: so equal series do not hide one another.
    """
    ways = [later / earlier for earlier, later in itertools.pairwise(sorted(set(counts)))]
    share = (number - (series - 1) / 2) * min(APART, SPREAD / series)
    places = [count * min(ways, default=10.0) ** share for count in counts]
    colour, marker = look(number)
    axes.plot(places, values, marker=marker, ms=4.5, lw=1.2, color=colour, label=label, clip_on=False)
    axes.plot(places, values, marker, ms=4.5, color=colour, clip_on=False, zorder=3)
    return places


def metrics_figure(proofs: Sequence[Proof], theme: Theme = LIGHT) -> Figure:
    """Before and after per metric: teacher-forced on the left, the protocol's score on the right."""
    row = max(0.52, 0.14 * len(proofs))
    titles = {**MEASURES, "score": proofs[0].protocol.title if proofs else ""}
    kinds = kinds_in(kind for proof in proofs for kind in proof.summary)
    with rc_context(style(theme)):
        figure = Figure(figsize=(9.2, 1.15 + row * max(len(kinds), 1)), layout="constrained")
        panels = figure.subplots(1, len(SHOWN), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, SHOWN, strict=True):
            axes.set_title(titles[measure], loc="left", pad=8)
            _panel(axes, proofs, kinds, measure, theme)
        handles, labels = panels[0].get_legend_handles_labels()
        if handles:
            columns = min(len(labels), 6)
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def svg(figure: Figure, theme: Theme = LIGHT) -> bytes:
    """The figure as SVG on a transparent ground, its text as paths: the same on every machine."""
    buffer = io.BytesIO()
    with rc_context(style(theme)):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path, theme: Theme = LIGHT) -> Path:
    """Write the figure, whole or not at all; the ending of `path` chooses the format.

    Letters that no font has become boxes.

    Raises:
        WriteError: it cannot be written.
    """
    form = path.suffix.removeprefix(".")
    with whole(path) as part, rc_context(style(theme)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(part, format=form, dpi=200, bbox_inches="tight", pad_inches=0.1)  # long answers run below it
    return path


def _panel(axes: Axes, proofs: Sequence[Proof], kinds: Sequence[str], measure: str, theme: Theme) -> None:
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
    axes.set_yticks(range(len(kinds)), [kind_of(kind).name for kind in kinds])
    axes.grid(axis="x", zorder=0)
    axes.tick_params(length=0)
    for number, proof in enumerate(proofs):
        offset = (number - (len(proofs) - 1) / 2) * min(0.2, 0.8 / len(proofs))
        _series(axes, proof, kinds, number, measure, offset, theme)


def _series(
    axes: Axes, proof: Proof, kinds: Sequence[str], number: int, measure: str, offset: float, theme: Theme
) -> None:
    colour, marker = look(number)
    names = {"after": proof.method, "before": "before" if number == 0 else None}
    for place, kind in enumerate(kinds):
        if kind not in proof.summary:
            continue
        y = place + offset
        change = getattr(proof.summary[kind], measure)
        if not kind_of(kind).keeps:
            means = [change.before.mean, change.after.mean]
            axes.plot(means, [y, y], color=colour, lw=1.4, alpha=0.45, zorder=2)
            (ring,) = axes.plot(means[0], y, "o", ls="none", ms=6, mew=1.4, zorder=3, label=names.pop("before", None))
            ring.set_markerfacecolor(theme.ground)
            ring.set_markeredgecolor(theme.faint)
        _interval(axes, change.after, y, colour)
        axes.plot(
            change.after.mean, y, marker, ls="none", color=colour, ms=7.5, zorder=5, label=names.pop("after", None)
        )


def _interval(axes: Axes, value: Estimate, y: float, colour: str) -> None:
    axes.plot([value.low, value.high], [y, y], color=colour, lw=3.2, alpha=0.35, zorder=4)
