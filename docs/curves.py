"""`python docs/curves.py`: the table of sequential edits in editors.md as curves, figures/sequences.png."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmend.report.figures import LIGHT, curve, save, style

DOCS = Path(__file__).parent
SHOWN = {
    "Rel": "the edits",
    "M-Gen": "other pictures of the same",
    "M-Loc": "pictures they are not about",
    "other questions unchanged": "other questions",
    "captions unchanged": "captions",
    "facts unchanged": "facts in text",
}
"""Column of the table -> what its curve is called."""

Rows = dict[str, list[dict[str, str]]]
"""Editor -> its lines of the table, by column."""


def table(text: str) -> Rows:
    """The table whose second column is the number of edits."""
    lines = text.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("| | edits |"))
    columns = _cells(lines[start])
    found: Rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        row = dict(zip(columns, _cells(line), strict=True))
        found.setdefault(row[""].strip("`"), []).append(row)
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def figure(found: Rows) -> Figure:
    """One panel an editor, those that keep most of their edits and of all else first."""
    names = sorted(found, key=lambda name: -sum(float(found[name][-1][column]) for column in SHOWN))
    across = 4
    down = -(-len(names) // across)
    with rc_context(style(LIGHT)):
        made = Figure(figsize=(2.7 * across, 2.3 * down + 0.7), layout="constrained")
        panels = made.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, name in zip(panels, names, strict=False):
            _panel(axes, name, found[name])
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return made


def _panel(axes: Axes, name: str, rows: list[dict[str, str]]) -> None:
    counts = [int(row["edits"].replace(",", "")) for row in rows]
    for place, (column, title) in enumerate(SHOWN.items()):
        curve(axes, counts, [float(row[column]) for row in rows], place, len(SHOWN), title)
    axes.set_title(name, loc="left", pad=6)
    axes.set_xscale("log")
    axes.set_xticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1,000"])
    axes.minorticks_off()
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("edits", color=LIGHT.faint, fontsize=10)
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 50, 100], ["0", "50", "100 %"])
    axes.grid(axis="y")


if __name__ == "__main__":
    save(figure(table((DOCS / "editors.md").read_text())), DOCS / "figures" / "sequences.png")
