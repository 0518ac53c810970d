"""The pointing game: whether a map's peak lies on the thing that was asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmend.attribution.base import attribute
from vlmend.attribution.result import Attribution
from vlmend.evaluation.faithfulness import pointing_chance, points_at
from vlmend.evaluation.stats import bootstrap, wilson
from vlmend.models.vlm import VLM
from vlmend.world.attribution.asking import Finding, Shown, Trial, about_one_thing

__all__ = ["RAW", "SETTINGS", "Way", "best_layers", "pointing", "settings_of", "ways_of"]

RAW = "raw-attention"
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "integrated-gradients": {"layers": 0, "steps": 8},
    "perturbation": {"layers": "all", "radius": 0, "draws": 4},
    RAW: {"layers": "all"},
}
"""The methods with maps, and what they are tried with. Those with several layers get the one that is best on the draw
that settings are chosen on; gradients are taken over the embeddings."""

_CHANCE = "pointing at random"


@dataclass(frozen=True)
class Way:
    """A method and which of its maps: of one layer, or the mean over all."""

    method: str
    layer: int | None

    @property
    def name(self) -> str:
        """As it is called in a table."""
        return f"{self.method}, {'mean of all layers' if self.layer is None else f'layer {self.layer}'}"

    def pick(self, found: Attribution) -> Attribution:
        """The map."""
        return found.mean("layer") if self.layer is None else found.at(layer=self.layer)


def ways_of(vlm: VLM, trial: Trial) -> list[Way]:
    """Each method with its best layer; raw attention also of the last layer, and the mean of all."""
    ways = [Way(method, layer) for method, layer in best_layers(vlm, trial.choosing).items()]
    return list(dict.fromkeys((*ways, Way(RAW, None), Way(RAW, len(vlm.parts.layers) - 1))))


def pointing(vlm: VLM, trial: Trial) -> list[Finding]:
    """Hits of every method's map, and of pointing at random."""
    ways = ways_of(vlm, trial)
    shown = about_one_thing(trial.n, trial.seed)
    found = _hits(vlm, shown, ways)
    out: list[Finding] = []
    for measured, middle in (("hits", False), ("hits with the middle of the peak", True)):
        out += [Finding(way.name, measured, wilson(sum(found[way.name, middle]), trial.n)) for way in ways]
        out.append(Finding(_CHANCE, measured, bootstrap(found[_CHANCE, middle])))
    for way in (way for way in ways if way.method != RAW):
        for other in (other for other in ways if other.method == RAW):
            gain = [a - b for a, b in zip(found[way.name, False], found[other.name, False], strict=True)]
            out.append(Finding(way.name, f"hits above {other.name}", bootstrap(gain)))
    return out


def best_layers(vlm: VLM, trial: Trial) -> dict[str, int]:
    """For each method the layer whose maps hit most often; of equals the lowest."""
    hits: dict[str, dict[int, int]] = {method: {} for method in SETTINGS}
    for one in about_one_thing(trial.n, trial.seed):
        for method, settings in SETTINGS.items():
            found = attribute(vlm, one.example, method, **settings)
            for layer in map(int, found.axes["layer"]):
                hit = points_at(found.at(layer=layer), one.mask)
                hits[method][layer] = hits[method].get(layer, 0) + hit
    return {method: max(counts, key=lambda layer: (counts[layer], -layer)) for method, counts in hits.items()}


def settings_of(ways: Sequence[Way]) -> dict[str, dict[str, Any]]:
    """What each method is called with, so that it makes the maps of these ways and, where it can, no others."""
    layers: dict[str, list[int | None]] = {}
    for way in ways:
        layers.setdefault(way.method, []).append(way.layer)
    return {
        method: {**SETTINGS[method], **({} if None in some else {"layers": some})} for method, some in layers.items()
    }


def _hits(vlm: VLM, shown: Sequence[Shown], ways: Sequence[Way]) -> dict[tuple[str, bool], list[float]]:
    """For each way, and for the chance of it, whether its map hits; by its name and whether its middle must."""
    hits: dict[tuple[str, bool], list[float]] = {}
    settings = settings_of(ways)
    for one in shown:
        found = {method: attribute(vlm, one.example, method, **some) for method, some in settings.items()}
        for middle in (False, True):
            for way in ways:
                hit = points_at(way.pick(found[way.method]), one.mask, middle=middle)
                hits.setdefault((way.name, middle), []).append(float(hit))
            chance = pointing_chance(found[RAW], one.mask, middle=middle)
            hits.setdefault((_CHANCE, middle), []).append(chance)
    return hits
