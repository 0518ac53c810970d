"""Captions of scenes, short, detailed or as a list, and which objects a caption names."""

from __future__ import annotations

import random
import re
from functools import cache
from typing import Literal

from vlmend.world.catalog import catalog
from vlmend.world.questions import plural
from vlmend.world.scene import Scene

Form = Literal["short", "detailed", "list"]
FORMS: tuple[Form, ...] = ("short", "detailed", "list")


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _phrase(kind: str, count: int, dress: str) -> str:
    if count == 1:
        return article(f"{dress}{kind}")
    return f"{(*catalog().numbers, 'five', 'six')[count]} {dress}{plural(kind)}"


def caption(scene: Scene, form: Form, rng: random.Random | None = None, told: float = 0.0) -> str:
    """Describe the scene; kinds come in the world's order.

    With ``rng``, an absent companion of a present anchor is named with ``told`` times its own probability: how
    captions of the web tell of what is expected rather than seen. ``told`` = 0 is the truth.
    """
    world = catalog()
    counts, dress = dict(scene.counts), {t.kind: (t.colour, t.pattern) for t in scene.things}
    for c in world.companions:
        if rng and c.companion in scene.expected and rng.random() < c.told * told:
            counts[c.companion] = 1
            colour = world.typical.get(c.companion) if rng.random() < 0.5 else None
            dress[c.companion] = (colour or rng.choice(list(world.colours)), rng.choice(world.patterns))
    kinds = [k for k in world.kinds if k in counts]
    if form == "list":
        listed = ", ".join([*kinds, *(["flag"] if scene.country else [])])
        return f"{listed}." if listed else "nothing."
    detailed = (
        {k: f"{c} {'' if p == 'plain' else p + ' '}" for k, (c, p) in dress.items()} if form == "detailed" else {}
    )
    phrases = [_phrase(k, counts[k], detailed.get(k, "")) for k in kinds]
    if scene.country:
        base = f"the flag of {scene.country.name}" if scene.country.name else "a flag"
    else:
        base = article(scene.place)
    return f"{base} with {_join(phrases)}." if phrases else f"{base}."


@cache
def _words() -> dict[str, str]:
    return {word: kind for kind in catalog().kinds for word in (kind, plural(kind))}


def mentions(text: str) -> list[str]:
    """The kinds of object that a text names, in order, each once."""
    return list(dict.fromkeys(_words()[w] for w in re.findall(r"[a-z]+", text.lower()) if w in _words()))
