"""The model card of a demo model: what it is, how it was made, and its examination."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vlmend.errors import DataError
from vlmend.evaluation.stats import Estimate
from vlmend.runs import whole
from vlmend.world.entities import countries
from vlmend.world.exam import ENOUGH, GATES
from vlmend.world.plots import draw_layers, draw_noise
from vlmend.world.train.recipe import RECIPES


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
        whole = json.loads(json.dumps(asdict(RECIPES[self.backbone])))
        shorter = "" if self.recipe["schedules"] == whole["schedules"] else f" --steps {self.steps[0]}"
        return f"vlmend world train {self.backbone} --seed {self.recipe['seed']}{shorter}"

    @property
    def backbone(self) -> str:
        """The model's architecture; recipes of before there were several are LLaVA's."""
        return (self.recipe or {}).get("backbone", "llava")

    @property
    def headline(self) -> bool:
        """Whether it knows enough of its world to stand in headline tables."""
        return all(self.estimates[name].mean >= low for name, low in ENOUGH.items())

    @property
    def steps(self) -> list[int]:
        """The decoder's steps in each part of its training: all at once first, polishing then."""
        schedules = self.recipe["schedules"] if self.recipe else []
        return [sum(steps for steps, _ in one["stages"]) for one in schedules]


def read_exam(path: Path) -> Examined:
    """A whole examination from the file that ``vlmend world exam --json`` or ``--card`` wrote.

    Raises:
        DataError: it is something else, or lacks a gate.
    """
    try:
        examined = Examined.of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("not an examination as `vlmend world exam --json` writes it", path=path) from error
    if lacking := [gate.name for gate in GATES if gate.name not in examined.estimates]:
        raise DataError(f"the examination lacks '{lacking[0]}': examine all sections", path=path)
    return examined


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
        backbone=examined.backbone,
        enough=ENOUGH,
        countries=len(countries()),
        unseen=sum(not c.seen for c in countries()),
    )
    card = folder / "README.md"
    with whole(card) as part:
        part.write_text(text, encoding="utf-8")
    return card
