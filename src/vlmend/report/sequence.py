"""Sequential edits as curves: what is left of the edits, and of all else, against their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from vlmend.evaluation.kinds import kind_of
from vlmend.report.figures import LIGHT, Theme, curve, look, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vlmend.evaluation.sequence import Point

__all__ = ["curves", "sequence_figure"]

Curve = list[tuple[int, Any]]
"""Numbers of edits, and an estimate (as plain values) at each."""


def curves(points: Sequence[Point]) -> dict[str, Curve]:
    """Title -> its curve: every kind of probe after the edits, then what became of held-out questions."""
    found: dict[str, Curve] = {}
    for point in points:
        for kind, summary in point.retained.items():
            found.setdefault(kind_of(kind).name, []).append((point.edits, summary["score"]["after"]))
        for name, held in point.held_out.items():
            found.setdefault(f"{name}: unchanged", []).append((point.edits, held["unchanged"]))
            if held["right_before"]["n"]:
                found.setdefault(f"{name}: right", []).append((point.edits, held["right_after"]))
    return found


def sequence_figure(trajectories: Mapping[str, Sequence[Point]], theme: Theme = LIGHT) -> Figure:
    """One panel a metric, one line an editor; bars are 95 % intervals."""
    each = {name: curves(points) for name, points in trajectories.items()}
    titles = list(dict.fromkeys(title for some in each.values() for title in some))
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    with rc_context(style(theme)):
        figure = Figure(figsize=(3.6 * columns, 2.8 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, title in zip(panels, titles, strict=False):
            axes.set_title(title, loc="left", pad=6)
            for place, (name, found) in enumerate(each.items()):
                _line(axes, name, found.get(title, []), place, len(each))
            _dressed(axes, [point.edits for points in trajectories.values() for point in points])
            axes.set_xlabel("edits one after another", color=theme.faint, fontsize=10)
        for axes in panels[len(titles) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        named = {"title": "bars: 95 % intervals", "title_fontsize": 10, "ncols": min(len(labels), 6)}
        figure.legend(handles, labels, loc="outside lower center", frameon=False, **named)
    return figure


def _line(axes: Axes, name: str, found: Curve, place: int, editors: int) -> None:
    known = [(count, one) for count, one in found if one["mean"] is not None]
    places = curve(axes, [count for count, _ in known], [one["mean"] for _, one in known], place, editors, name)
    # Bars, not bands: where bands of several editors lie on one another, nobody can tell them apart.
    colour, _ = look(place)
    axes.vlines(places, [one["low"] for _, one in known], [one["high"] for _, one in known], color=colour, alpha=0.3)


def _dressed(axes: Axes, counts: Sequence[int]) -> None:
    ticks = sorted(set(counts))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.minorticks_off()
    axes.tick_params(length=0, labelbottom=True)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1.0], ["0", "50", "100 %"])
    axes.grid(axis="y")
