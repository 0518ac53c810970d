"""Deletion and insertion: the picture is taken away, and given back, in the order of each method's map."""

from __future__ import annotations

from vlmend.attribution.base import attribute
from vlmend.evaluation.faithfulness import Removal, at_random, removal
from vlmend.evaluation.stats import bootstrap
from vlmend.models.vlm import VLM
from vlmend.world.attribution.asking import Finding, Trial, about_one_thing
from vlmend.world.attribution.pointing import settings_of, ways_of

__all__ = ["taking"]

_STEPS = 8
_SHARE = 4  # every fourth case: each takes some sixty pictures
_RANDOM = "random order"


def taking(vlm: VLM, trial: Trial) -> list[Finding]:
    """Areas under the answer's probability, of each method's map and of places in random order."""
    ways = ways_of(vlm, trial)
    settings = settings_of(ways)
    areas: dict[str, list[Removal]] = {}
    for index, one in enumerate(about_one_thing(max(1, trial.n // _SHARE), trial.seed + 2)):
        answer = vlm.generate(vlm.prepare([one.example]), max_new_tokens=16)[0]
        found = {method: attribute(vlm, one.example, method, **some) for method, some in settings.items()}
        maps = {way.name: way.pick(found[way.method]) for way in ways}
        maps[_RANDOM] = at_random(next(iter(maps.values())), seed=index)
        for name, heat in maps.items():
            areas.setdefault(name, []).append(removal(vlm, one.example, heat, answer, steps=_STEPS))
    out: list[Finding] = []
    for name, some in areas.items():
        for measured, values in (
            ("deletion (low is good)", [one.deletion for one in some]),
            ("insertion (high is good)", [one.insertion for one in some]),
        ):
            out.append(Finding(name, measured, bootstrap(values)))
    for name in (name for name in areas if name != _RANDOM):
        pairs = list(zip(areas[name], areas[_RANDOM], strict=True))
        out.append(Finding(name, "deletion below random order", bootstrap([b.deletion - a.deletion for a, b in pairs])))
        out.append(
            Finding(name, "insertion above random order", bootstrap([a.insertion - b.insertion for a, b in pairs]))
        )
    return out
