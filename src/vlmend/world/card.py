"""The model card of a demo model: what it is, how it was made, and its examination."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from vlmend.evaluation.stats import Estimate
from vlmend.world.entities import countries
from vlmend.world.exam import GATES
from vlmend.world.train.recipe import Recipe

_NOISE = re.compile(r"noise ([\d.]+), (.+)")
_LAYER = re.compile(r"ablation, entering layer (\d+)")


def curves(estimates: Mapping[str, Estimate], pattern: re.Pattern[str]) -> list[tuple[float, str, Estimate]]:
    """(x, name, estimate) of every estimate whose name matches."""
    found = ((pattern.fullmatch(name), e) for name, e in estimates.items())
    return [(float(m[1]), m[m.lastindex or 1], e) for m, e in found if m]


def _plot(path: Path, lines: Mapping[str, list[tuple[float, Estimate]]], x: str, y: str) -> None:
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
    figure.savefig(path, dpi=130)


def draw_noise(estimates: Mapping[str, Estimate], path: Path) -> None:
    """What noise on the picture does: absent companions are named more before true objects are lost."""
    lines: dict[str, list[tuple[float, Estimate]]] = {}
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


def write_card(folder: Path, estimates: Mapping[str, Estimate], settings: Mapping[str, object]) -> Path:
    """Write ``README.md``, ``noise.png`` and ``layers.png`` into the model's folder; returns the card.

    Args:
        folder: the model's.
        estimates: of a whole examination.
        settings: of the examination: ``n`` and ``seed``.
    """
    draw_noise(estimates, folder / "noise.png")
    draw_layers(estimates, folder / "layers.png")
    gates = [(gate, estimates[gate.name]) for gate in GATES]
    shown = {gate.name for gate in GATES}
    rest = {name: e for name, e in estimates.items() if name not in shown}
    environment = Environment(loader=PackageLoader("vlmend.world"), undefined=StrictUndefined, trim_blocks=True)
    recipe = Recipe()
    made = {
        "countries": len(countries()),
        "unseen": sum(not c.seen for c in countries()),
        "recipe_seed": recipe.seed,
        "steps": recipe.schedule.steps,
    }
    template = environment.get_template("card.md.j2")
    card = folder / "README.md"
    card.write_text(template.render(gates=gates, rest=rest, settings=made | dict(settings)), encoding="utf-8")
    return card
