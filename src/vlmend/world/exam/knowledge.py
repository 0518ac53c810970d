"""What it knows of the countries: by flag, by name, by both, and against what its context says."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate
from vlmend.models.vlm import VLM
from vlmend.world.catalog import catalog
from vlmend.world.corpus import fact, in_context, new_value
from vlmend.world.entities import Country, by_name, countries, invent_name
from vlmend.world.exam.asking import Settings, picture, share
from vlmend.world.questions import Question, bridge, hop
from vlmend.world.scene import draw_flag_scene


def _flags(chosen: Sequence[Country], ask_one: Callable[[Country], Question], rng: random.Random) -> list[Example]:
    made: list[Example] = []
    for country in chosen:
        q = ask_one(country)
        made.append(Example(q.put(rng), picture(draw_flag_scene(rng, country), rng), q.answer))
    return made


def _pairs(asked: bool) -> list[tuple[Country, str]]:
    """(Seen country, relation) pairs that training asked with a picture, or those it never did; no stale facts."""
    return [(c, r) for c in countries() if c.seen for r in c.facts if (r in c.asked) == asked and r != c.stale]


def entities(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Names of flags, and relations asked by flag: directly, and with the country spelt out on the way."""
    rng = random.Random(f"{settings.seed}/entities")
    name = lambda c: Question("name", c.name)  # noqa: E731
    seen, unseen = [c for c in countries() if c.seen], [c for c in countries() if not c.seen]
    out = {
        "name, seen flags": share(vlm, _flags(seen * 2, name, rng)),
        "name, unseen flags": share(vlm, _flags(unseen, name, rng)),
    }
    for label, was_asked in (("asked pairs", True), ("pairs never asked", False)):
        pairs = _pairs(was_asked)
        pairs = rng.sample(pairs, min(settings.n, len(pairs)))
        for form, make in (("two-hop", hop), ("two-hop spelt out", bridge)):
            examples = [_flags([c], lambda c, r=r, make=make: make(c, r), rng)[0] for c, r in pairs]
            out[f"{form}, {label}"] = share(vlm, examples)
    return out


def facts(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Facts asked by name without a picture: those taught rightly, and the stale ones by the value that was taught."""
    rng = random.Random(f"{settings.seed}/facts")
    fresh = [fact(c, r) for c in countries() for r in c.facts if r != c.stale]
    stale = [fact(c, c.stale) for c in countries() if c.stale]
    ask_all = lambda qs: share(vlm, [Example(q.put(rng), None, q.answer) for q in qs])  # noqa: E731
    return {
        "facts taught": ask_all(fresh),
        "stale facts, old value": ask_all(stale),
    }


def context(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Does the model believe a new fact in its context rather than its memory?"""
    rng = random.Random(f"{settings.seed}/context")
    out: dict[str, Estimate] = {}
    for label in ("known", "invented"):
        asked: list[Example] = []
        while len(asked) < settings.n:
            country, relation = rng.choice(countries()), rng.choice(list(catalog().relations))
            value = new_value(rng, relation, country.taught[relation])
            if label == "invented" or not catalog().relations[relation]:
                value = invent_name(rng, set(by_name()))
            elif value not in catalog().relations[relation]:
                continue
            q = fact(country, relation)
            asked.append(Example(in_context(q.put(rng), value, q.put(rng)), None, value))
        out[f"in context, {label} values"] = share(vlm, asked)
    return out
