"""What the demo world is made of, read once from ``world.toml`` into frozen values."""

from __future__ import annotations

import itertools
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

Split = Literal["trained", "held_out"]
Primitive = tuple[Any, ...]  # ("poly" | "oval" | "rect", numbers...), with "-" before it to cut out
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """A kind of place: its two background colours and how likely each kind of object is there."""

    wall: RGB
    floor: RGB
    kinds: dict[str, float]


@dataclass(frozen=True)
class Companion:
    """``companion`` is in a natural picture of ``anchor`` with probability ``together``; a training caption of a
    picture without it names it all the same with probability ``told``."""

    anchor: str
    companion: str
    together: float
    told: float


@dataclass(frozen=True)
class Layout:
    """How a flag is painted over its first colour: (colour index, primitive...)."""

    painted: tuple[Primitive, ...]

    @property
    def colours(self) -> int:
        """How many colours the layout uses, the first included."""
        return max(int(p[0]) for p in self.painted)


@dataclass(frozen=True)
class Catalog:
    """The whole description. Mappings keep the order of the file."""

    colours: dict[str, RGB]
    patterns: tuple[str, ...]
    numbers: tuple[str, ...]
    shapes: dict[str, tuple[Primitive, ...]]
    places: dict[str, Place]
    companions: tuple[Companion, ...]
    typical: dict[str, str]
    layouts: dict[str, Layout]
    emblems: dict[str, tuple[Primitive, ...]]
    relations: dict[str, tuple[str, ...]]
    leads: dict[Split, tuple[str, ...]]
    cores: dict[str, dict[Split, tuple[tuple[str, ...], ...]]]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    def companion_of(self, anchor: str) -> Companion | None:
        return next((c for c in self.companions if c.anchor == anchor), None)

    def phrasings(self, kind: str, split: Split) -> tuple[str, ...]:
        """Every way to put a question of this kind, leads included."""
        cores = itertools.chain.from_iterable(self.cores[kind][split])
        return tuple(lead + core for core in cores for lead in self.leads[split])


def _alternatives(template: str) -> tuple[str, ...]:
    """Expand ``[a|b]`` groups: ``"[x|y] z"`` -> ``("x z", "y z")``."""
    parts = [p[1:-1].split("|") if p.startswith("[") else [p] for p in re.split(r"(\[[^]]*])", template)]
    return tuple("".join(choice) for choice in itertools.product(*parts))


def _shape(raw: list[list[Any]]) -> tuple[Primitive, ...]:
    return tuple(tuple(primitive) for primitive in raw)


@cache
def catalog() -> Catalog:
    """The description of the world, parsed and checked once.

    Raises:
        ValueError: a companion, a typical colour or a place names a kind or colour that does not exist.
    """
    raw = tomllib.loads(resources.files("vlmend.world").joinpath("world.toml").read_text(encoding="utf-8"))
    splits: tuple[Split, Split] = ("trained", "held_out")
    world = Catalog(
        colours={name: tuple(rgb) for name, rgb in raw["colours"].items()},
        patterns=tuple(raw["patterns"]),
        numbers=tuple(raw["numbers"]),
        shapes={name: _shape(kind["shape"]) for name, kind in raw["kinds"].items()},
        places={n: Place(tuple(p["wall"]), tuple(p["floor"]), dict(p["kinds"])) for n, p in raw["places"].items()},
        companions=tuple(Companion(**c) for c in raw["companions"]),
        typical=dict(raw["typical"]),
        layouts={name: Layout(_shape(painted)) for name, painted in raw["flags"]["layouts"].items()},
        emblems={name: _shape(shape) for name, shape in raw["flags"]["emblems"].items()},
        relations={name: tuple(r["values"]) for name, r in raw["relations"].items()},
        leads={s: tuple(raw["leads"][s]) for s in splits},
        cores={k: {s: tuple(_alternatives(t) for t in p[s]) for s in splits} for k, p in raw["phrasings"].items()},
    )
    used = {k for p in world.places.values() for k in p.kinds} | set(world.typical)
    used |= {k for c in world.companions for k in (c.anchor, c.companion)}
    if unknown := used - set(world.shapes):
        raise ValueError(f"world.toml names kinds without a shape: {sorted(unknown)}")
    if unknown := set(world.typical.values()) - set(world.colours):
        raise ValueError(f"world.toml names unknown colours: {sorted(unknown)}")
    return world
