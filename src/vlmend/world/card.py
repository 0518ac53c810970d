"""The model card of a demo model: what it is, how it was made, and its examination."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vlmend.evaluation.stats import Estimate
from vlmend.world.entities import countries
from vlmend.world.exam import GATES

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


@dataclass(frozen=True)
class Examined:
    """An examination as ``vlmend world exam --json`` writes it: how much was asked, and what was found.

    ``recipe`` is the model's, where its folder has it.
    """

    n: int
    seed: int
    estimates: Mapping[str, Estimate]
    recipe: Mapping[str, Any] | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Examined:
        estimates = {name: Estimate(**e) for name, e in document["estimates"].items()}
        return cls(document["n"], document["seed"], estimates, document["recipe"])

    @property
    def made(self) -> str:
        """The command that trained the model."""
        if self.recipe is None:
            return "an unknown recipe"
        steps = sum(steps for steps, _ in self.recipe["schedule"]["stages"])
        return f"vlmend world train --seed {self.recipe['seed']} --steps {steps}"


def write_card(folder: Path, examined: Examined, second: Examined | None = None) -> Path:
    """Write ``README.md``, ``noise.png`` and ``layers.png`` into the model's folder; returns the card.

    Args:
        folder: the model's.
        examined: a whole examination of it.
        second: one of a model trained with another seed, shown beside.
    """
    estimates = examined.estimates
    draw_noise(estimates, folder / "noise.png")
    draw_layers(estimates, folder / "layers.png")
    environment = Environment(loader=PackageLoader("vlmend.world"), undefined=StrictUndefined, trim_blocks=True)
    shown = {gate.name for gate in GATES}
    text = environment.get_template("card.md.j2").render(
        gates=GATES,
        rest=[name for name in estimates if name not in shown],
        examined=examined,
        second=second,
        countries=len(countries()),
        unseen=sum(not c.seen for c in countries()),
    )
    card = folder / "README.md"
    card.write_text(text, encoding="utf-8")
    return card
