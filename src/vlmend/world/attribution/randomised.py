"""Weights without knowledge: whether maps still point at the thing that is asked about rather than at any other thing.

Things stand out from walls and floors whatever the weights, so that a map of random weights hits the asked thing more
often than pointing at random does. What it cannot know is which thing was asked about: its hits are to be held against
those of another thing of the scene, drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlmend.attribution.base import attribute
from vlmend.evaluation.faithfulness import points_at, reinitialised
from vlmend.evaluation.stats import bootstrap, wilson
from vlmend.models.vlm import VLM
from vlmend.world.attribution.asking import Finding, Shown, Trial, about_one_thing
from vlmend.world.attribution.pointing import Way, settings_of, ways_of

__all__ = ["randomised"]

_SHARE = 2
_ANEW: Mapping[str, Sequence[str]] = {
    "decoder anew": ("attn", "mlp"),
    "all anew": ("attn", "mlp", "connector", "vision"),
}
"""What is drawn anew -> roles of modules."""


def randomised(vlm: VLM, trial: Trial) -> list[Finding]:
    """Hits of the asked thing and of another, in scenes with several, under the model's weights and random ones."""
    ways = ways_of(vlm, trial)
    drawn = about_one_thing(2 * trial.n, trial.seed)
    shown = [one for one in drawn if one.other is not None][: max(1, trial.n // _SHARE)]
    out = _found(vlm, shown, ways, "as they are")
    for name, roles in _ANEW.items():
        with vlm.using(reinitialised(vlm, roles)):
            out += _found(vlm, shown, ways, name)
    return out


def _found(vlm: VLM, shown: Sequence[Shown], ways: Sequence[Way], weights: str) -> list[Finding]:
    asked: dict[str, list[float]] = {way.name: [] for way in ways}
    other: dict[str, list[float]] = {way.name: [] for way in ways}
    settings = settings_of(ways)
    for one in shown:
        found = {method: attribute(vlm, one.example, method, **some) for method, some in settings.items()}
        assert one.other is not None
        for way in ways:
            heat = way.pick(found[way.method])
            asked[way.name].append(float(points_at(heat, one.mask)))
            other[way.name].append(float(points_at(heat, one.other)))
    out: list[Finding] = []
    for name in asked:
        more = [a - b for a, b in zip(asked[name], other[name], strict=True)]
        out.append(Finding(name, f"weights {weights}: hits the asked thing", wilson(sum(asked[name]), len(shown))))
        out.append(Finding(name, f"weights {weights}: hits another thing", wilson(sum(other[name]), len(shown))))
        out.append(Finding(name, f"weights {weights}: the asked above the other", bootstrap(more)))
    return out
