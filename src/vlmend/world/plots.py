"""Figures of what was measured on the demo models: each a line or two with its 95 % band."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmend.evaluation.stats import Estimate
from vlmend.runs import whole

Lines = dict[str, list[tuple[float, Estimate]]]
_NOISE = re.compile(r"noise ([\d.]+), (.+)")
_LAYER = re.compile(r"ablation, entering layer (\d+)")


def curves(estimates: Mapping[str, Estimate], pattern: re.Pattern[str]) -> list[tuple[float, str, Estimate]]:
    """(x, name, estimate) of every estimate whose name matches."""
    found = ((pattern.fullmatch(name), e) for name, e in estimates.items())
    return [(float(m[1]), m[m.lastindex or 1], e) for m, e in found if m]


def _plot(path: Path, lines: Lines, x: str, y: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        xs, es = [p[0] for p in points], [p[1] for p in points]
        axes.plot(xs, [e.mean for e in es], marker="o", markersize=4, label=name)
        axes.fill_between(xs, [e.low for e in es], [e.high for e in es], alpha=0.2)
    axes.set(xlabel=x, ylabel=y, ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    if len(lines) > 1:
        axes.legend(frameon=False)
    with whole(path) as part:
        figure.savefig(part, format="png", dpi=130)


def draw_noise(estimates: Mapping[str, Estimate], path: Path) -> None:
    """What noise on the picture does: absent companions are named more before true objects are lost."""
    lines: Lines = {}
    for x, name, e in curves(estimates, _NOISE):
        lines.setdefault(name, []).append((x, e))
    _plot(path, lines, "standard deviation of the noise (pixels in -1 to 1)", "share")


def draw_layers(estimates: Mapping[str, Estimate], path: Path) -> None:
    """Names of flags when the visual states that enter a layer are replaced by their mean over pictures."""
    points = [(x, e) for x, _, e in curves(estimates, _LAYER)]
    clean = estimates["ablation, none"]
    _plot(
        path,
        {"mean-ablated": points, "untouched": [(x, clean) for x, _ in points]},
        "visual states replaced on entering layer",
        "flags named rightly",
    )


def draw_dose(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """CHAIR_i of counter-prior captions against each dial; all dials at 1 is the point that the lines share."""
    measured = "CHAIR_i counter"
    shared = [(r["value"], Estimate(**r[measured])) for r in records if r["dial"] == "none"]
    lines: Lines = {}
    for record in records:
        if record["dial"] != "none":
            points = lines.setdefault(record["dial"], list(shared))
            points.append((record["value"], Estimate(**record[measured])))
    _plot(path, {dial: sorted(points, key=lambda p: p[0]) for dial, points in lines.items()}, "dial", measured)
