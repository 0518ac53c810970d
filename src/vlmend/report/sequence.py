"""Sequential edits as curves: what is left of the edits, and of all else, against their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from vlmend.evaluation.kinds import kind_of
from vlmend.report.figures import LIGHT, MARKERS, OKABE_ITO, Theme, style

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
    """One panel a metric, one line an editor; bands are 95 % intervals."""
    each = {name: curves(points) for name, points in trajectories.items()}
    titles = list(dict.fromkeys(title for some in each.values() for title in some))
    columns = min(3, len(titles))
    rows = -(-len(titles) // columns)
    with rc_context(style(theme)):
        figure = Figure(figsize=(3.6 * columns, 2.6 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, title in zip(panels, titles, strict=False):
            axes.set_title(title, loc="left", pad=6)
            for place, (name, found) in enumerate(each.items()):
                _line(axes, name, found.get(title, []), place)
            _dressed(axes, [point.edits for points in trajectories.values() for point in points])
        for axes in panels[len(titles) :]:
            axes.set_axis_off()
        for axes in panels[max(0, len(titles) - columns) : len(titles)]:  # the lowest of every column
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("edits one after another", color=theme.faint, fontsize=10)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False)
    return figure


def _line(axes: Axes, name: str, curve: Curve, place: int) -> None:
    known = [(count, one) for count, one in curve if one["mean"] is not None]
    counts = [count for count, _ in known]
    colour, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
    axes.plot(counts, [one["mean"] for _, one in known], marker=marker, markersize=4.5, color=colour, label=name)
    axes.fill_between(
        counts, [one["low"] for _, one in known], [one["high"] for _, one in known], color=colour, alpha=0.12, lw=0
    )


def _dressed(axes: Axes, counts: Sequence[int]) -> None:
    ticks = sorted(set(counts))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.minorticks_off()
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1.0], ["0", "50", "100 %"])
    axes.grid(axis="y")
