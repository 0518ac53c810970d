"""What a training file gives away of an evaluation file, and splits that give nothing away.

An *item* is what a case shows a model in one role: the picture, the question or both, of the edit or of a probe. An
item of an evaluation case leaks when a training case has the same one in the same role; it is *seen* when a training
case has it in any role. Pictures are the same when their files are named alike, questions when they are, but for case
and spaces. Published editors are trained on the very image locality items they are evaluated on: all 2,093 of E-VQA,
all 1,000 of E-IC, 2,071 of 3,174 of VLKEB.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmend.data.pictures import picture_files
from vlmend.data.records import IMAGE_LOCALITY, TEXT_LOCALITY, EditCase, Example, Probe

__all__ = [
    "EDIT",
    "EDIT_PICTURE",
    "EDIT_QUESTION",
    "PICTURE",
    "Dropped",
    "Leak",
    "Split",
    "drop",
    "leaks",
    "regroup",
    "shared_pictures",
]

EDIT = "edit"
EDIT_PICTURE = "edit picture"
EDIT_QUESTION = "edit question"
PICTURE = "any picture"

Name = Callable[[Path], Hashable]
"""What tells one picture file from another."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One role, and the evaluation cases whose item in it is in the training file too.

    Attributes:
        role: what the item is: the edit, its picture or question, any picture of the case, or a kind of probe.
        of: evaluation cases that have such an item.
        cases: ids of those whose item a training case has in the same role.
        seen: ids of those whose item a training case has in any role.
    """

    role: str
    of: int
    cases: tuple[str, ...]
    seen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a split left out or replaced: the case's id, the role of the item, and what became of it."""

    case: str
    role: str
    why: str


@dataclass(frozen=True, slots=True)
class Split:
    """A training and an evaluation part, and what was done so that the first gives nothing of the second away."""

    train: tuple[EditCase, ...]
    evaluation: tuple[EditCase, ...]
    dropped: tuple[Dropped, ...]


def leaks(train: Sequence[EditCase], evaluation: Sequence[EditCase], *, name: Name = Path) -> tuple[Leak, ...]:
    """Every role that an evaluation case has an item in, with what leaks in it.

    Args:
        name: tells pictures apart; by default the paths they were read as.
    """
    here: dict[str, set[Hashable]] = {}
    for case in train:
        for role, item in items_of(case, name):
            here.setdefault(role, set()).add(item)
    anywhere = set[Hashable]().union(*here.values())
    of, same, seen = (dict[str, dict[str, None]]() for _ in range(3))
    for case in evaluation:
        for role, item in items_of(case, name):
            of.setdefault(role, {})[case.id] = None
            if item in here.get(role, ()):
                same.setdefault(role, {})[case.id] = None
            if item in anywhere:
                seen.setdefault(role, {})[case.id] = None
    return tuple(Leak(role, len(ids), tuple(same.get(role, ())), tuple(seen.get(role, ()))) for role, ids in of.items())


def drop(
    train: Sequence[EditCase],
    evaluation: Sequence[EditCase],
    *,
    roles: Sequence[str] = (EDIT, EDIT_PICTURE, TEXT_LOCALITY, IMAGE_LOCALITY),
    name: Name = Path,
) -> Split:
    """Leave out of the training part whatever leaks; the evaluation part stays whole.

    A training case whose edit, edit picture or edit question leaks is left out; one with a leaking probe loses the
    probe and stays.

    Args:
        roles: of the items that must not be in both.
    """
    held: dict[str, set[Hashable]] = {}
    for case in evaluation:
        for role, item in items_of(case, name):
            held.setdefault(role, set()).add(item)

    def lost(items: Iterator[tuple[str, Hashable]]) -> str | None:
        return next((role for role, item in items if role in roles and item in held.get(role, ())), None)

    kept: list[EditCase] = []
    dropped: list[Dropped] = []
    for case in train:
        if role := lost(_edit_items(case, name)):
            dropped.append(Dropped(case.id, role, "case left out, an evaluation case has the same"))
            continue
        left: list[Probe] = []
        for probe in case.probes:
            if role := lost(_probe_items(probe, name)):
                why = f"{probe.kind} probe left out, an evaluation case has the same"
                dropped.append(Dropped(case.id, role, why))
            else:
                left.append(probe)
        kept.append(replace(case, probes=tuple(left)))
    return Split(tuple(kept), tuple(evaluation), tuple(dropped))


def regroup(
    train: Sequence[EditCase],
    evaluation: Sequence[EditCase],
    *,
    seed: int,
    name: Name = Path,
    together: Collection[str] = (),
) -> Split:
    """Divide all cases anew so that no edit picture and no locality item is on both sides; no case is lost.

    Cases whose edits share a picture stay together; the groups are dealt by lot until the evaluation part has its old
    size, or just over. Then the distinct locality items of each kind are dealt in the same proportion, and a case
    whose item went to the other side gets another one, drawn from its own side's, of a picture that the case does
    not show otherwise.

    Args:
        seed: of the lot.
        together: kinds of probe whose pictures keep cases together, too: with others' edits and such probes.
    """
    rng = random.Random(seed)
    dealt = _groups([*train, *evaluation], name, together)
    rng.shuffle(dealt)
    sides: tuple[list[EditCase], list[EditCase]] = ([], [])
    for group in dealt:
        sides[len(sides[1]) < len(evaluation)].extend(group)
    dropped: list[Dropped] = []
    for kind in (TEXT_LOCALITY, IMAGE_LOCALITY):
        for side, pool in zip(sides, _deal(sides, kind, rng, name), strict=True):
            side[:] = [_redealt(case, pool, rng, dropped) for case in side]
    return Split(tuple(sides[0]), tuple(sides[1]), tuple(dropped))


def _groups(cases: Sequence[EditCase], name: Name, together: Collection[str]) -> list[list[EditCase]]:
    """Cases that stay together, in the order of their first ones; those without any picture are one group."""
    leader: dict[Hashable, Hashable] = {}

    def first(item: Hashable) -> Hashable:
        while leader.setdefault(item, item) != item:
            leader[item] = item = leader[leader[item]]
        return item

    own: list[Hashable] = []
    for case in cases:
        pictures: Hashable = _pictures(case.request, name)
        own.append(pictures)
        if together:
            asked = (case.request, *(probe.example for probe in case.probes if probe.kind in together))
            for item in ((picture,) for example in asked for picture in _pictures(example, name)):
                leader[first(item)] = first(pictures)
    groups: dict[Hashable, list[EditCase]] = {}
    for case, pictures in zip(cases, own, strict=True):
        groups.setdefault(first(pictures), []).append(case)
    return list(groups.values())


class _Pool:
    """The probes of one kind that a side may ask."""

    def __init__(self, kind: str, probes: Mapping[Hashable, Probe], name: Name) -> None:
        self.kind = kind
        self.name = name
        self._items = frozenset(probes)
        self._probes = tuple(probes.values())

    def has(self, probe: Probe) -> bool:
        return _shown(probe.example, self.name) in self._items

    def draw(self, rng: random.Random, avoid: set[Hashable]) -> Probe | None:
        """A probe without any of these pictures: the first after a place drawn by lot."""
        count = len(self._probes)
        start = rng.randrange(count) if count else 0
        drawn = (self._probes[(start + step) % count] for step in range(count))
        return next((probe for probe in drawn if avoid.isdisjoint(_pictures(probe.example, self.name))), None)


def _deal(sides: Sequence[Sequence[EditCase]], kind: str, rng: random.Random, name: Name) -> tuple[_Pool, _Pool]:
    """The distinct probes of a kind, divided between the sides in proportion to their cases."""
    probes: dict[Hashable, Probe] = {
        _shown(p.example, name): p for side in sides for case in side for p in case.probes_of(kind)
    }
    items = list(probes)
    rng.shuffle(items)
    cut = round(len(items) * len(sides[0]) / max(1, len(sides[0]) + len(sides[1])))
    first, second = (_Pool(kind, {item: probes[item] for item in part}, name) for part in (items[:cut], items[cut:]))
    return first, second


def _redealt(case: EditCase, pool: _Pool, rng: random.Random, dropped: list[Dropped]) -> EditCase:
    """The case with probes of a kind from its side's pool only."""
    probes: list[Probe] = []
    for probe in case.probes:
        if probe.kind != pool.kind or pool.has(probe):
            probes.append(probe)
            continue
        own = {picture for example in _others(case, pool.kind) for picture in _pictures(example, pool.name)}
        other = pool.draw(rng, own)
        if other is not None:
            probes.append(other)
        what = "left out: its side has no other" if other is None else "another one of its side is asked"
        dropped.append(Dropped(case.id, pool.kind, f"the item went to the other side; {what}"))
    return replace(case, probes=tuple(probes))


def _others(case: EditCase, kind: str) -> Iterator[Example]:
    yield case.request
    yield from (probe.example for probe in case.probes if probe.kind != kind)


def items_of(case: EditCase, name: Name = Path) -> Iterator[tuple[str, Hashable]]:
    """What a case shows, as (role, item)."""
    yield from _edit_items(case, name)
    for probe in case.probes:
        yield from _probe_items(probe, name)


def _edit_items(case: EditCase, name: Name) -> Iterator[tuple[str, Hashable]]:
    if pictures := _pictures(case.request, name):
        yield EDIT_PICTURE, pictures
    yield EDIT_QUESTION, _asked(case.request)
    yield EDIT, _shown(case.request, name)
    yield from ((PICTURE, (picture,)) for picture in pictures)


def _probe_items(probe: Probe, name: Name) -> Iterator[tuple[str, Hashable]]:
    yield probe.kind, _shown(probe.example, name)
    yield from ((PICTURE, (picture,)) for picture in _pictures(probe.example, name))


def _shown(example: Example, name: Name) -> tuple[Any, ...]:
    return (_pictures(example, name), _asked(example))


def _pictures(example: Example, name: Name) -> tuple[Hashable, ...]:
    return tuple(name(file) for file in picture_files(example))


def _asked(example: Example) -> str:
    return " ".join(example.question.casefold().split())


def shared_pictures(cases: Sequence[EditCase], *, name: Name = Path) -> tuple[int, int]:
    """How many edits share their picture with another edit of the same file, and on how many pictures."""
    counts = Counter(_pictures(case.request, name) for case in cases if picture_files(case.request))
    shared = [count for count in counts.values() if count > 1]
    return sum(shared), len(shared)
