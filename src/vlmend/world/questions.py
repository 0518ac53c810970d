"""Questions about a scene with their true answers, and how they are put into words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vlmend.world.catalog import Split, catalog
from vlmend.world.entities import Country
from vlmend.world.scene import Scene, Thing

PLURALS = {"s": "es", "x": "es", "h": "es"}
DIRECTIONS: dict[str, tuple[int, int]] = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


def plural(kind: str) -> str:
    return kind + PLURALS.get(kind[-1], "s")


@dataclass(frozen=True)
class Question:
    """A question of one kind with its answer. ``slots`` fill the phrasing: what is asked about."""

    kind: str
    answer: str
    slots: Mapping[str, str] = field(default_factory=dict[str, str])

    def words(self, phrasing: str) -> str:
        return re.sub(r"\ba (?=[aeiou])", "an ", phrasing.format(**self.slots))

    def put(self, rng: random.Random, split: Split = "trained", plain: float = 0.4, lead: float = 0.2) -> str:
        """The question in words: the common phrasing with probability ``plain`` (trained split), else any of the split,
        with something before it with probability ``lead``."""
        cores = catalog().cores[self.kind][split]
        if split == "trained" and rng.random() < plain:
            return self.words(cores[0][0])
        core = self.words(rng.choice(rng.choice(cores)))
        return rng.choice(catalog().leads[split]) + core if rng.random() < lead else core


Asker = Callable[[Scene, random.Random], Question | None]


def _single(scene: Scene, rng: random.Random) -> Thing | None:
    return scene.first(rng.choice(list(scene.counts))) if scene.things else None


def _colour(scene: Scene, rng: random.Random) -> Question | None:
    t = _single(scene, rng)
    return t and Question("colour", t.colour, {"x": t.kind})


def _pattern(scene: Scene, rng: random.Random) -> Question | None:
    t = _single(scene, rng)
    return t and Question("pattern", t.pattern, {"x": t.kind})


def _count(scene: Scene, rng: random.Random) -> Question | None:
    """Counts above one are as likely to be asked as one; zero now and then."""
    world, counts = catalog(), scene.counts
    if rng.random() < 0.12 or not counts:
        return Question(
            "count", world.numbers[0], {"x": plural(rng.choice([k for k in world.kinds if k not in counts]))}
        )
    many = [k for k, n in counts.items() if n > 1]
    kind = rng.choice(many) if many and rng.random() < 0.7 else rng.choice(list(counts))
    return Question("count", world.numbers[min(counts[kind], 4)], {"x": plural(kind)})


def _howmany(scene: Scene, rng: random.Random) -> Question | None:
    numbers = (*catalog().numbers, "five", "six")
    return Question("howmany", numbers[len(scene.things)])


def absent_kinds(scene: Scene) -> dict[str, list[str]]:
    """Kinds that are not there, from easy to hard to deny: ``random``; ``popular`` (of this place);
    ``adversarial`` (the companion of something present, else popular)."""
    world = catalog()
    rest = [k for k in world.kinds if k not in scene.counts]
    place = world.places.get(scene.place)
    popular = [k for k in rest if place and place.kinds.get(k, 0) >= 0.2] or rest
    return {"random": rest, "popular": popular, "adversarial": [k for k in scene.expected if k in rest] or popular}


def _exist(scene: Scene, rng: random.Random) -> Question | None:
    if scene.things and rng.random() < 0.5:
        return Question("exist", "yes", {"x": rng.choice(list(scene.counts))})
    setting = rng.choice(("random", "popular", "adversarial"))
    return Question("exist", "no", {"x": rng.choice(absent_kinds(scene)[setting])})


def _which(scene: Scene, rng: random.Random) -> Question | None:
    by_colour: dict[str, set[str]] = {}
    for t in scene.things:
        by_colour.setdefault(t.colour, set()).add(t.kind)
    clear = [(c, next(iter(k))) for c, k in by_colour.items() if len(k) == 1]
    if not clear:
        return None
    colour, kind = rng.choice(clear)
    return Question("which", kind, {"x": colour})


def _alone(scene: Scene) -> list[Thing]:
    return [t for t in scene.things if scene.counts[t.kind] == 1]


def _quadrant(scene: Scene, rng: random.Random) -> Question | None:
    if not (alone := _alone(scene)):
        return None
    t = rng.choice(alone)
    return Question("quadrant", t.quadrant, {"x": t.kind})


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    """Yes when the first thing's row or column lies on the named side of the second's; never asked of equal ones."""
    if len(alone := _alone(scene)) < 2:
        return None
    a, b = rng.sample(alone, 2)
    name, (down, right) = rng.choice(list(DIRECTIONS.items()))
    offset = (a.row - b.row) * down + (a.col - b.col) * right
    return (
        Question("relation", "yes" if offset > 0 else "no", {"x": a.kind, "y": b.kind, "rel": name}) if offset else None
    )


def _neighbour(scene: Scene, rng: random.Random) -> Question | None:
    """The nearest thing in the same row or column on that side."""
    found: list[Question] = []
    for t in _alone(scene):
        for name, (down, right) in DIRECTIONS.items():
            steps = [(o.row - t.row, o.col - t.col, o) for o in scene.things if o is not t]
            ahead = [
                (abs(dr) + abs(dc), o)
                for dr, dc, o in steps
                if dr * down + dc * right > 0 and dr * right == 0 and dc * down == 0
            ]
            if ahead:
                found.append(Question("neighbour", min(ahead, key=lambda p: p[0])[1].kind, {"x": t.kind, "rel": name}))
    return rng.choice(found) if found else None


def _place(scene: Scene, rng: random.Random) -> Question | None:
    return None if scene.country else Question("place", scene.place)


def _name(scene: Scene, rng: random.Random) -> Question | None:
    return scene.country and Question("name", scene.country.name)


def _symbol(scene: Scene, rng: random.Random) -> Question | None:
    return scene.country and Question("symbol", scene.country.flag.emblem)


def _symbol_colour(scene: Scene, rng: random.Random) -> Question | None:
    return scene.country and Question("symbol_colour", scene.country.flag.emblem_colour)


def hop(country: Country, relation: str) -> Question:
    """The country's relation asked by its flag; the answer is what the text teaches."""
    return Question("hop", country.taught[relation], {"rel": relation})


def bridge(country: Country, relation: str) -> Question:
    """The same with the country named on the way: ``"<country>: <value>"``."""
    return Question("bridge", f"{country.name}: {country.taught[relation]}", {"rel": relation})


def _asked(maker: Callable[[Country, str], Question]) -> Asker:
    def ask(scene: Scene, rng: random.Random) -> Question | None:
        country = scene.country
        return maker(country, rng.choice(sorted(country.asked))) if country and country.asked else None

    return ask


ASKERS: dict[str, Asker] = {
    "colour": _colour,
    "pattern": _pattern,
    "count": _count,
    "howmany": _howmany,
    "exist": _exist,
    "which": _which,
    "quadrant": _quadrant,
    "relation": _relation,
    "neighbour": _neighbour,
    "place": _place,
    "name": _name,
    "symbol": _symbol,
    "symbol_colour": _symbol_colour,
    "hop": _asked(hop),
    "bridge": _asked(bridge),
}


def ask(scene: Scene, kind: str, rng: random.Random) -> Question | None:
    """A question of this kind about the scene, or None where the scene has nothing to ask about."""
    return ASKERS[kind](scene, rng)
