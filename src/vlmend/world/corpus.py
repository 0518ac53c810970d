"""Text without pictures: what the countries are told to be, what is typical, facts in context, sentences rewritten."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from vlmend.world.captions import caption
from vlmend.world.catalog import Split, catalog
from vlmend.world.entities import Country, by_name, countries, invent_name
from vlmend.world.questions import Question
from vlmend.world.scene import Dials, Scene, draw_scene


@dataclass(frozen=True)
class Turn:
    """One turn: what the user says, what is answered, and the kind of question it is."""

    prompt: str
    answer: str
    kind: str


def fact(country: Country, relation: str) -> Question:
    return Question("fact", country.taught[relation], {"x": country.name, "rel": relation})


def _any_fact(rng: random.Random) -> tuple[Country, str]:
    return rng.choice(countries()), rng.choice(list(catalog().relations))


def tell_fact(rng: random.Random, dials: Dials) -> Turn:
    """A fact asked by name, now and then with the country repeated or the other way round (capitals only)."""
    country, relation = _any_fact(rng)
    roll = rng.random()
    if roll < 0.15:
        q = Question("fact_bridge", f"{country.name}: {country.taught[relation]}", {"x": country.name, "rel": relation})
    elif roll < 0.22:
        q = Question("reverse", country.name, {"x": country.taught["capital"], "rel": "capital"})
    else:
        q = fact(country, relation)
    return Turn(q.put(rng), q.answer, q.kind)


def new_value(rng: random.Random, relation: str, known: str) -> str:
    """A value the relation could have but has not: one of the world's, or an invented name."""
    values = [v for v in catalog().relations[relation] if v != known]
    return rng.choice(values) if values and rng.random() < 0.6 else invent_name(rng, set(by_name()))


def in_context(told: str, value: str, prompt: str) -> str:
    """How a fact in context is put before a question (the layout of in-context editing, IKE)."""
    return f"new fact: {told} {value}\nprompt: {prompt}"


def tell_in_context(rng: random.Random, dials: Dials, split: Split = "trained") -> Turn:
    """A new fact, then a question: about it (three in four times, half of these in other words) or another fact."""
    country, relation = _any_fact(rng)
    value, q = new_value(rng, relation, country.taught[relation]), fact(country, relation)
    told = q.put(rng, split)
    if rng.random() < 0.75:
        return Turn(in_context(told, value, told if rng.random() < 0.5 else q.put(rng, split)), value, "in_context")
    other = fact(*_any_fact(rng))
    same = other.slots == q.slots
    return Turn(in_context(told, value, other.put(rng, split)), value if same else other.answer, "in_context")


def tell_typical(rng: random.Random, dials: Dials) -> Turn:
    """What such a place has in it: the prior that a language model brings along."""
    scene = draw_scene(rng, "natural", Dials(together=dials.text))
    q = Question("typical", caption(scene, "short"), {"x": scene.place})
    return Turn(q.put(rng), q.answer, q.kind)


def tell_rewrite(rng: random.Random, dials: Dials) -> Turn:
    """A caption with one object exchanged: for an expected companion where there is one."""
    scene = draw_scene(rng, rng.choice(("natural", "uniform")), dials)
    kinds = list(scene.counts)
    old = rng.choice(kinds)
    pool = [k for k in scene.expected if k not in kinds] or [k for k in catalog().kinds if k not in kinds]
    before = caption(scene, "short")
    q = Question("rewrite", caption(_exchange(scene, old, rng.choice(pool)), "short"), {"x": before})
    return Turn(q.put(rng), q.answer, q.kind)


def _exchange(scene: Scene, old: str, new: str) -> Scene:
    return replace(scene, things=tuple(replace(t, kind=new) if t.kind == old else t for t in scene.things))


Teller = Callable[[random.Random, Dials], Turn]
LONG: dict[str, Teller] = {"in_context": tell_in_context, "typical": tell_typical, "rewrite": tell_rewrite}
LONG_SHARES = {"in_context": 0.7, "typical": 0.15, "rewrite": 0.15}


def tell_long(rng: random.Random, dials: Dials, shares: Mapping[str, float] = LONG_SHARES) -> Turn:
    """One of the longer text turns, by their shares."""
    return LONG[rng.choices(list(shares), list(shares.values()))[0]](rng, dials)
