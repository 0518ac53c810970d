"""The invented countries: names, flags, facts, what the text corpus gets wrong, and what an edit of one entails."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

from vlmend.world.catalog import catalog

SEED = 20231008  # of the countries themselves; every model and every data set shares them
COUNT = 420
UNSEEN = 160  # countries whose flags are in no training picture
ASKED = 0.75  # share of (seen country, relation) pairs that training asks with a picture
STALE = 0.12  # share of countries with one fact that the text corpus has wrong


@dataclass(frozen=True)
class Flag:
    """A flag's design: layout, its colours in order (two or three, neighbours differ), emblem and emblem colour."""

    layout: str
    colours: tuple[str, ...]
    emblem: str
    emblem_colour: str

    def distance(self, other: Flag) -> int:
        """How many of layout, first colour, second colour, emblem and emblem colour differ."""
        mine = (self.layout, *self.colours[:2], self.emblem, self.emblem_colour)
        theirs = (other.layout, *other.colours[:2], other.emblem, other.emblem_colour)
        return sum(a != b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
class Country:
    """One country. ``facts`` is the truth; ``taught`` is what the text corpus says (they differ for the stale fact)."""

    name: str
    flag: Flag
    seen: bool
    facts: dict[str, str]
    taught: dict[str, str]
    asked: frozenset[str]  # relations that training asks with a picture of the flag

    @property
    def stale(self) -> str | None:
        """The relation that the text corpus has wrong, if any."""
        return next((r for r in self.facts if self.facts[r] != self.taught[r]), None)


def random_flag(rng: random.Random) -> Flag:
    """A design drawn uniformly; the emblem's colour differs from all colours of the field."""
    world = catalog()
    layout = rng.choice(list(world.layouts))
    *field, emblem_colour = rng.sample(list(world.colours), world.layouts[layout].colours + 1)
    return Flag(layout, tuple(field), rng.choice(list(world.emblems)), emblem_colour)


_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u"]
_CODAS = ("", "l", "n", "r", "s", "m")


def invent_name(rng: random.Random, taken: set[str]) -> str:
    """A name of two or three syllables that is not in ``taken`` (and is added to it)."""
    while True:
        syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 2, 3)))]
        name = "".join(syllables) + rng.choice(_CODAS)
        if len(name) >= 5 and name not in taken:
            taken.add(name)
            return name


@cache
def countries() -> tuple[Country, ...]:
    """All countries, in a fixed order; any two flags differ in at least two features (``Flag.distance``)."""
    rng, world = random.Random(SEED), catalog()
    taken = set(world.kinds) | {v for values in world.relations.values() for v in values}
    flags: list[Flag] = []
    while len(flags) < COUNT:
        flag = random_flag(rng)
        if all(flag.distance(other) >= 2 for other in flags):
            flags.append(flag)
    made: list[Country] = []
    for index, flag in enumerate(flags):
        name = invent_name(rng, taken)
        facts = {r: rng.choice(v) if v else invent_name(rng, taken) for r, v in world.relations.items()}
        seen = index >= UNSEEN
        asked = frozenset(r for r in facts if seen and rng.random() < ASKED)
        country = Country(name, flag, seen, facts, dict(facts), asked)
        if rng.random() < STALE:
            relation = rng.choice(list(facts))
            pool = [v for v in world.relations[relation] if v != facts[relation]] or [invent_name(rng, taken)]
            country = replace(country, taught={**facts, relation: rng.choice(pool)})
        made.append(country)
    rng.shuffle(made)
    return tuple(made)


@cache
def by_name() -> dict[str, Country]:
    return {country.name: country for country in countries()}


def entailed(old: Country, new: Country) -> dict[str, tuple[str, str]]:
    """What follows when the flag of ``old`` is said to be the flag of ``new``: relation -> (old answer, new answer),
    for the relations whose taught answers differ. Facts told of either country by name must stay as they are."""
    return {r: (old.taught[r], new.taught[r]) for r in old.taught if old.taught[r] != new.taught[r]}
