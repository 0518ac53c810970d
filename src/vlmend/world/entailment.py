"""What else changes with an answer, what stays, and what must be recognised first: told by the world, of one scene."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

from vlmend.world.captions import caption, mentions
from vlmend.world.catalog import catalog
from vlmend.world.corpus import fact
from vlmend.world.entities import by_name, entailed
from vlmend.world.questions import Question, ask, hop, plural
from vlmend.world.scene import GRID, MOST, Scene, Thing

__all__ = ["follows", "nearby", "recognition", "same_question", "variation"]

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_DRAWS = 200


def follows(scene: Scene, question: Question, said: str) -> list[Question]:
    """Questions whose answers follow from the question's.

    Args:
        scene: what the picture shows.
        question: the corrected question; its answer may be made up (a flag said to be another country's).
        said: what the model said before.

    Returns:
        Questions on the same picture, those of kind "fact" without one; none where nothing follows.
    """
    return list(_FOLLOWS[question.kind](scene, question, said))


def _from_name(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    """All that is told of the country differently from what is told of the one named before."""
    new, old = by_name()[question.answer], by_name().get(said)
    for relation in entailed(old, new) if old else new.taught:
        yield hop(new, relation)


def _from_hop(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    country, relation = scene.country, question.slots["rel"]
    if country:
        yield Question("bridge", f"{country.name}: {question.answer}", {"rel": relation})
        yield replace(fact(country, relation), answer=question.answer)


def _from_count(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    none = catalog().numbers[0]
    if none in (question.answer, said):  # else something is there before and after
        yield Question("exist", "no" if question.answer == none else "yes", {"x": _singular(question.slots["x"])})


def _from_exist(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    kind = question.slots["x"]
    yield Question("count", catalog().numbers[min(scene.counts[kind], 4)], {"x": plural(kind)})


def _from_which(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    yield Question("colour", question.slots["x"], {"x": question.answer})


def _from_relation(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    x, y, rel = (question.slots[name] for name in ("x", "y", "rel"))
    yield Question("relation", question.answer, {"x": y, "y": x, "rel": OPPOSITE[rel]})


def _from_neighbour(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    if scene.counts[question.answer] == 1:
        slots = {"x": question.answer, "rel": OPPOSITE[question.slots["rel"]]}
        yield Question("neighbour", question.slots["x"], slots)


def _from_caption(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    told, true = set(mentions(said)), set(mentions(question.answer))
    for kind in sorted(told ^ true):
        yield Question("exist", "yes" if kind in true else "no", {"x": kind})


def _nothing(scene: Scene, question: Question, said: str) -> Iterator[Question]:
    yield from ()


_FOLLOWS: Mapping[str, Callable[[Scene, Question, str], Iterator[Question]]] = {
    "name": _from_name,
    "hop": _from_hop,
    "count": _from_count,
    "exist": _from_exist,
    "which": _from_which,
    "quadrant": _nothing,
    "relation": _from_relation,
    "neighbour": _from_neighbour,
    "short_caption": _from_caption,
}

_ON_FLAGS = ("symbol", "symbol_colour", "colour", "pattern")
_ON_THINGS = ("colour", "pattern", "place")
_NEAR: Mapping[str, tuple[str, ...]] = {
    "name": _ON_FLAGS,
    "hop": (*_ON_FLAGS, "name", "hop"),
    **dict.fromkeys(("colour", "pattern", "count", "exist", "which", "quadrant", "relation", "neighbour"), _ON_THINGS),
    "short_caption": ("colour", "pattern"),
}


def nearby(scene: Scene, question: Question, rng: random.Random) -> Question | None:
    """Another question on the same picture whose answer does not depend on the question's; ``None`` if none was found.

    Left out is whatever speaks of the same thing (or fact), and with it all that follows.
    """
    about = {_singular(word) for word in (*question.slots.values(), question.answer)}
    for _ in range(_DRAWS):
        other = ask(scene, rng.choice(_NEAR[question.kind]), rng)
        if other and not about & {_singular(word) for word in other.slots.values()}:
            return other
    return None


def same_question(scene: Scene, question: Question, rng: random.Random) -> tuple[Scene, str] | None:
    """Another scene in which the same question has another answer, and that answer; ``None`` if none was found."""
    about = {_singular(word) for word in question.slots.values()}
    for _ in range(_DRAWS):
        other = variation(scene, rng, about)
        found = _answer(other, question, rng)
        if found and found != question.answer:
            return other, found
    return None


def _answer(scene: Scene, question: Question, rng: random.Random) -> str | None:
    """The question's true answer in another scene, where it can be asked there."""
    if scene.country and question.kind == "hop":
        relation = question.slots["rel"]
        return scene.country.taught[relation] if relation in scene.country.asked else None
    if question.kind == "short_caption":
        return caption(scene, "short")
    asked = ask(scene, question.kind, rng)
    return asked.answer if asked and asked.slots == question.slots else None


def variation(scene: Scene, rng: random.Random, about: Collection[str] = ()) -> Scene:
    """A scene like this one: things in other cells and each other's colours, now and then one more or less, or of
    another kind: first of those that are to be asked ``about`` and are not there.

    A picture of a flag becomes one of another, seen country's flag.
    """
    if scene.country:
        others = [country for country in by_name().values() if country.seen and not country.stale]
        return replace(scene, country=rng.choice([c for c in others if c.name != scene.country.name]))
    kinds = list(scene.counts)
    dress = dict(
        zip(kinds, rng.sample([(t.colour, t.pattern) for t in map(scene.first, kinds)], len(kinds)), strict=True)
    )
    copies = [t.kind for t in scene.things]
    few = [kind for kind in kinds if copies.count(kind) < 4]
    if len(copies) > 1 and rng.random() < 0.4:
        copies.remove(rng.choice(copies))
    elif few and len(copies) < MOST and rng.random() < 0.4:
        copies.append(rng.choice(few))
    names = {kind: kind for kind in kinds}
    if kinds and rng.random() < 0.5:
        absent = [kind for kind in catalog().kinds if kind not in kinds]
        names[rng.choice(kinds)] = rng.choice([kind for kind in absent if kind in about] or absent)
    cells = rng.sample([(row, col) for row in range(GRID) for col in range(GRID)], len(copies))
    things = (Thing(names[kind], *dress[kind], *cell) for kind, cell in zip(copies, cells, strict=True))
    return replace(scene, things=tuple(sorted(things, key=lambda t: (t.row, t.col))))


def recognition(scene: Scene, question: Question) -> Question:
    """What a model must see in a picture of the scene to answer at all: the flag, the thing asked about, the place."""
    if scene.country:
        return Question("symbol", scene.country.flag.emblem)
    words = (_singular(word) for word in (*question.slots.values(), question.answer))
    thing = next((scene.first(word) for word in words if word in scene.counts), None)
    if thing is None or question.kind == "short_caption":
        return Question("place", scene.place)
    return Question("pattern", thing.pattern, {"x": thing.kind})


def _singular(word: str) -> str:
    return next((kind for kind in catalog().kinds if plural(kind) == word), word)
