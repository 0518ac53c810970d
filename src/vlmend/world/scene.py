"""A scene as a value, and how scenes are drawn from the world: natural, counter to the prior, or uniform."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from vlmend.world.catalog import Catalog, catalog
from vlmend.world.entities import Country

GRID = 4  # cells a side
MOST = 6  # objects in one scene
Mode = Literal["natural", "counter", "uniform"]
CORNERS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Thing:
    """One object: its kind, colour, pattern and grid cell. Things of one kind share colour and pattern."""

    kind: str
    colour: str
    pattern: str
    row: int
    col: int

    @property
    def quadrant(self) -> str:
        return CORNERS[2 * (self.row >= GRID // 2) + (self.col >= GRID // 2)]


@dataclass(frozen=True)
class Scene:
    """What a picture shows. ``country`` is set for pictures of a flag; their things stand in the bottom row.
    ``expected`` names companions of present anchors that are absent."""

    place: str
    things: tuple[Thing, ...]
    country: Country | None = None

    @property
    def counts(self) -> Counter[str]:
        return Counter(t.kind for t in self.things)

    def first(self, kind: str) -> Thing:
        return next(t for t in self.things if t.kind == kind)

    @property
    def expected(self) -> tuple[str, ...]:
        present = self.counts
        return tuple(c.companion for c in catalog().companions if c.anchor in present and c.companion not in present)


@dataclass(frozen=True)
class Dials:
    """How strong the prior is. ``together`` scales how often companions are in natural pictures, ``told`` how often a
    caption names an absent one, ``text`` the same co-occurrence in text without pictures, ``text_share`` the number
    of text examples for each picture. 1 is the shipped model's world."""

    together: float = 1.0
    told: float = 1.0
    text: float = 1.0
    text_share: float = 1.0


DIALS = Dials()


def draw_kinds(rng: random.Random, place: str, together: float = 1.0) -> list[str]:
    """Kinds in a natural scene of this place, companions included."""
    world = catalog()
    rates = world.places[place].kinds
    kinds = [k for k, p in rates.items() if rng.random() < p] or [rng.choice(list(rates))]
    for c in world.companions:
        if c.anchor in kinds and c.companion not in kinds and rng.random() < c.together * together:
            kinds.append(c.companion)
    if rng.random() < 0.1:
        kinds.append(rng.choice([k for k in world.kinds if k not in kinds]))
    return kinds


def _dress(rng: random.Random, world: Catalog, kind: str, mode: Mode) -> tuple[str, str]:
    colours = list(world.colours)
    if mode != "uniform" and kind in world.typical and rng.random() < 0.45:
        return world.typical[kind], rng.choice(world.patterns)
    return rng.choice(colours), rng.choice(world.patterns)


def _lay_out(
    rng: random.Random, kinds: list[str], mode: Mode, cells: list[tuple[int, int]], double: float
) -> tuple[Thing, ...]:
    world = catalog()
    kinds = rng.sample(kinds, min(len(kinds), 5))
    copies = dict.fromkeys(kinds, 1)
    for k in kinds:
        while rng.random() < double and copies[k] < 4 and sum(copies.values()) < MOST:
            copies[k] += 1
    rng.shuffle(cells)
    spots = iter(cells)
    things: list[Thing] = []
    for k in kinds:
        colour, pattern = _dress(rng, world, k, mode)
        things += [Thing(k, colour, pattern, *next(spots)) for _ in range(copies[k])]
    return tuple(sorted(things, key=lambda t: (t.row, t.col)))


def draw_scene(rng: random.Random, mode: Mode = "natural", dials: Dials = DIALS) -> Scene:
    """Draw a scene of objects.

    natural: places have their kinds, anchors mostly have their companion, kinds often have their typical colour.
    counter: an anchor is there and its companion is not. uniform: any kinds, any colours.
    """
    world = catalog()
    place = rng.choice(list(world.places))
    cells = [(r, c) for r in range(GRID) for c in range(GRID)]
    if mode == "uniform":
        kinds = rng.sample(world.kinds, rng.choice((1, 2, 2, 3, 3, 4, 5)))
        return Scene(place, _lay_out(rng, kinds, mode, cells, double=0.3))
    if mode == "natural":
        return Scene(place, _lay_out(rng, draw_kinds(rng, place, dials.together), mode, cells, double=0.15))
    anchors = [
        c for c in world.companions if c.anchor in world.places[place].kinds and world.places[place].kinds[c.anchor] > 0
    ]
    if not anchors:
        return draw_scene(rng, mode, dials)
    chosen = rng.choice(anchors)
    absent = {c.companion for c in anchors}
    kinds = [k for k in draw_kinds(rng, place, dials.together) if k not in absent | {chosen.anchor}]
    return Scene(place, _lay_out(rng, [chosen.anchor, *rng.sample(kinds, min(len(kinds), 3))], mode, cells, double=0.1))


def draw_flag_scene(rng: random.Random, country: Country) -> Scene:
    """A picture of the country's flag, with up to two objects on the ground before it."""
    kinds = rng.sample(catalog().kinds, rng.choice((0, 0, 1, 2)))
    cells = [(GRID - 1, c) for c in range(GRID)]
    return Scene("flag", _lay_out(rng, kinds, "uniform", cells, double=0.0), country)


def near_misses(scene: Scene, rng: random.Random) -> list[Scene]:
    """The scene with one attribute of one thing's kind changed: its colour, its pattern or what it is."""
    world, out = catalog(), []
    for kind in scene.counts:
        thing = scene.first(kind)
        others = {
            "colour": [c for c in world.colours if c != thing.colour],
            "pattern": [p for p in world.patterns if p != thing.pattern],
            "kind": [k for k in world.kinds if k not in scene.counts],
        }
        for field, values in others.items():
            new = rng.choice(values)
            out.append(
                replace(scene, things=tuple(replace(t, **{field: new}) if t.kind == kind else t for t in scene.things))
            )
    return out
