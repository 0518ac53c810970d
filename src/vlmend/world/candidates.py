"""Questions that a model gets wrong for good, and right ones whose answers an edit may change."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from PIL import Image

from vlmend.data.records import Example
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.world.captions import caption, mentions
from vlmend.world.entailment import same_question
from vlmend.world.entities import Country, countries
from vlmend.world.questions import Question, ask, hop
from vlmend.world.render import Style, render
from vlmend.world.scene import Scene, draw_flag_scene, draw_scene

__all__ = ["MIS_KNOWN", "RENDERINGS", "TASKS", "Candidate", "Found", "Task", "Tried", "find", "mine"]

RENDERINGS = 3
STABLE = 2  # of the renderings, for an error (or a right answer to be changed) to count
BATCH = 48  # candidates asked at once
PATIENCE = 12  # batches without a single find after which a kind is given up


@dataclass(frozen=True)
class Candidate:
    """A question with its target, and the pictures of its scene; and the true answer where the target is another."""

    scene: Scene
    question: Question
    put: str
    pictures: tuple[Image.Image, ...]
    truth: str = ""


@dataclass(frozen=True)
class Found:
    """A candidate to be edited: the rendering, and what the model said of it."""

    candidate: Candidate
    rendering: int
    said: str


@dataclass
class Tried:
    """How many candidates of each kind were asked, and how many the model got wrong for good (named flags: right)."""

    asked: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[str] = field(default_factory=Counter[str])


def mine(split: str) -> list[Country]:
    """The countries that this split may edit: every second one."""
    return [c for i, c in enumerate(countries()) if (i % 2 == 0) == (split == "eval")]


def _known(split: str) -> list[Country]:
    """Those of them that the model has seen the flag of, and that have no stale fact."""
    return [country for country in mine(split) if country.seen and not country.stale]


def _apart(split: str) -> list[Country]:
    """Every second one of these: the others are left for what must stay."""
    return _known(split)[::2]


class Drawn(NamedTuple):
    """A scene and a question with its target; and the true answer where that is another."""

    scene: Scene
    question: Question
    truth: str = ""


Draw = Callable[[str, random.Random, str], Drawn | None]
Judge = Callable[[str, Candidate], bool]
"""Whether what was said makes the candidate one to edit."""


MIS_KNOWN = ("name", "hop")
"""Kinds of questions whose errors are of knowledge: whose flag it is, and what is so there. All others are about what
is to be seen in a picture."""


@dataclass(frozen=True)
class Task:
    """One benchmark: what is drawn, by share of kinds, and what of it is edited.

    Attributes:
        counterfactual: whether targets are not true.
        once: whether all its edits can be in force together: a question has one target, whatever the case, and what
            must stay is asked of no country that a case is about.
    """

    shares: Mapping[str, float]
    draw: Draw
    wanted: Judge
    counterfactual: bool = False
    once: bool = False

    def about(self, split: str) -> list[Country]:
        """The known countries that its cases may be about: of all that this split may edit, or of every second one."""
        return _apart(split) if self.once else _known(split)


def _draw_question(kind: str, rng: random.Random, split: str) -> Drawn | None:
    if kind == "name":
        country = rng.choice([c for c in mine(split) if not c.seen])
        return Drawn(draw_flag_scene(rng, country), Question("name", country.name))
    if kind == "stale":
        country = rng.choice([c for c in mine(split) if c.seen and c.stale])
        truth = hop(country, country.stale or "")
        return Drawn(draw_flag_scene(rng, country), Question("hop", country.facts[country.stale or ""], truth.slots))
    scene = draw_scene(rng, rng.choice(("natural", "counter", "uniform")))
    question = ask(scene, kind, rng)
    return Drawn(scene, question) if question else None


def _draw_caption(kind: str, rng: random.Random, split: str) -> Drawn | None:
    scene = draw_scene(rng, rng.choice(("natural", "counter", "counter")))
    return Drawn(scene, Question(kind, caption(scene, "short"))) if scene.things else None


def _draw_renamed(kind: str, rng: random.Random, split: str) -> Drawn | None:
    """A known flag, said to be that of another known country."""
    old, new = rng.sample(_known(split), 2)
    return Drawn(draw_flag_scene(rng, old), Question(kind, new.name))


def _draw_supposed(kind: str, rng: random.Random, split: str) -> Drawn | None:
    return _supposed(kind, rng, _known(split))


def _draw_standing(kind: str, rng: random.Random, split: str) -> Drawn | None:
    return _supposed(kind, rng, _apart(split))


def _supposed(kind: str, rng: random.Random, known: list[Country]) -> Drawn | None:
    """A question with the answer that it would have of another scene, or of another of the countries."""
    about_flag = kind in ("name", "hop")
    scene = draw_flag_scene(rng, rng.choice(known)) if about_flag else draw_scene(rng, "natural")
    question = ask(scene, kind, rng)
    if question is None:
        return None
    if about_flag:
        other = rng.choice(known)
        relation = question.slots.get("rel", "")
        target = other.name if kind == "name" else other.taught[relation] if relation in other.asked else None
    else:
        _, target = same_question(scene, question, rng) or (scene, None)
    if target is None or target == question.answer:
        return None
    return Drawn(scene, replace(question, answer=target), question.answer)


def _wrong(said: str, candidate: Candidate) -> bool:
    return not matches(said, (candidate.question.answer,))


def _wrong_caption(said: str, candidate: Candidate) -> bool:
    """A caption is right when it names what is there and nothing else."""
    return sorted(mentions(said)) != sorted(candidate.scene.counts)


def _named_rightly(said: str, candidate: Candidate) -> bool:
    country = candidate.scene.country
    return country is not None and matches(said, (country.name,))


TASKS: Mapping[str, Task] = {
    "evqa": Task(
        {
            "name": 0.35,
            "stale": 0.15,
            "count": 0.1,
            "which": 0.1,
            "exist": 0.1,
            "quadrant": 0.05,
            "relation": 0.05,
            "neighbour": 0.1,
        },
        _draw_question,
        _wrong,
    ),
    "eic": Task({"short_caption": 1.0}, _draw_caption, _wrong_caption),
    "renamed": Task({"name": 1.0}, _draw_renamed, _named_rightly, counterfactual=True),
    "supposed": Task(
        {
            "name": 0.25,
            "hop": 0.15,
            **dict.fromkeys(("colour", "pattern", "count"), 0.1),
            **dict.fromkeys(("which", "exist", "quadrant", "neighbour"), 0.075),
        },
        _draw_supposed,
        _wrong,
        counterfactual=True,
    ),
    "standing": Task(
        {
            "name": 0.04,
            "hop": 0.16,
            **dict.fromkeys(("colour", "pattern", "count"), 0.12),
            **dict.fromkeys(("which", "exist", "quadrant", "neighbour"), 0.11),
        },
        _draw_standing,
        _wrong,
        counterfactual=True,
        once=True,
    ),
}
"""Unseen flags and stale facts (mis-known) and questions on scenes (mis-seen); captions; flags given another name;
questions of all kinds given an answer that is not true, which there are as many of as an editor needs to be trained;
and such of them as can all be in force together."""


def _candidates(kind: str, draw: Draw, rng: random.Random, split: str) -> Iterator[Candidate]:
    while True:
        if drawn := draw(kind, rng, split):
            scene, question, truth = drawn
            pictures = tuple(render(scene, Style(rng.getrandbits(48))).image() for _ in range(RENDERINGS))
            yield Candidate(scene, question, question.put(rng), pictures, truth)


def _subject(candidate: Candidate, *, once: bool) -> tuple[str, ...]:
    """What two cases may not have in common."""
    country, question = candidate.scene.country, candidate.question
    of = country.name if country else repr(candidate.scene)
    if once:
        return (of, question.kind, *map(str, question.slots.values()))
    return (of, candidate.truth and question.answer)


def find(vlm: VLM, task: Task, kind: str, count: int, rng: random.Random, split: str, tried: Tried) -> list[Found]:
    """Up to ``count`` candidates of one kind that are to be edited on most renderings, each with the first of these."""
    stream, found, idle = _candidates(kind, task.draw, rng, split), list[Found](), 0
    seen: set[tuple[str, ...]] = set()
    while len(found) < count and idle < PATIENCE:
        batch = [next(stream) for _ in range(BATCH)]
        said = vlm.generate(vlm.prepare([Example(c.put, p) for c in batch for p in c.pictures]), max_new_tokens=48)
        tried.asked[kind] += len(batch)
        before = len(found)
        for i, candidate in enumerate(batch):
            answers = said[i * RENDERINGS : (i + 1) * RENDERINGS]
            usable = [n for n, text in enumerate(answers) if task.wanted(text, candidate)]
            key = _subject(candidate, once=task.once)
            if len(usable) >= STABLE and key not in seen:
                seen.add(key)
                tried.wrong[kind] += 1
                found.append(Found(candidate, usable[0], answers[usable[0]]))
        idle = 0 if len(found) > before else idle + 1
    return found[:count]
