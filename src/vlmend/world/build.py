"""Edit benchmarks out of a demo model's own errors, in MMEdit's published format (E-VQA and E-IC).

A question counts as an error when the answer is wrong on at least two of three renderings of the same scene. Each case
gets a rephrased question, a re-rendered picture, a text fact and another picture's question that the model answers
rightly. Training and evaluation share no scene, no edited country, and no locality question.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from vlmend.data.formats import mmedit
from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
    EditCase,
    Example,
    Probe,
)
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.world.captions import caption, mentions
from vlmend.world.corpus import fact
from vlmend.world.entities import Country, countries
from vlmend.world.questions import Question, ask, hop
from vlmend.world.render import Style, render
from vlmend.world.scene import Scene, draw_flag_scene, draw_scene

RENDERINGS = 3
WRONG = 2  # of the renderings, for an error to count
BATCH = 48  # candidates asked at once
PATIENCE = 12  # batches without a single error after which a kind is given up

QUOTAS = {
    "name": 0.35,
    "stale": 0.15,
    "count": 0.1,
    "which": 0.1,
    "exist": 0.1,
    "quadrant": 0.05,
    "relation": 0.05,
    "neighbour": 0.1,
}
"""Kinds of error in E-VQA by share: unseen flags and stale facts (mis-known), then questions on scenes (mis-seen)."""


@dataclass(frozen=True)
class Candidate:
    """A question with its true answer, and the pictures of its scene."""

    scene: Scene
    question: Question
    put: str
    pictures: tuple[Image.Image, ...]


@dataclass
class Tried:
    """How many candidates of each kind were asked, and how many the model got wrong for good."""

    asked: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[str] = field(default_factory=Counter[str])


def _mine(split: str) -> list[Country]:
    """The countries whose errors this split may edit: every second one."""
    return [c for i, c in enumerate(countries()) if (i % 2 == 0) == (split == "eval")]


def _scene_question(kind: str, rng: random.Random, split: str) -> tuple[Scene, Question] | None:
    if kind == "name":
        country = rng.choice([c for c in _mine(split) if not c.seen])
        return draw_flag_scene(rng, country), Question("name", country.name)
    if kind == "stale":
        country = rng.choice([c for c in _mine(split) if c.seen and c.stale])
        truth = hop(country, country.stale or "")
        return draw_flag_scene(rng, country), Question("hop", country.facts[country.stale or ""], truth.slots)
    scene = draw_scene(rng, rng.choice(("natural", "counter", "uniform")))
    question = ask(scene, kind, rng)
    return (scene, question) if question else None


def _caption_question(kind: str, rng: random.Random, split: str) -> tuple[Scene, Question] | None:
    scene = draw_scene(rng, rng.choice(("natural", "counter", "counter")))
    return (scene, Question(kind, caption(scene, "short"))) if scene.things else None


Drawer = Callable[[str, random.Random, str], tuple[Scene, Question] | None]


def _candidates(kind: str, draw: Drawer, rng: random.Random, split: str) -> Iterator[Candidate]:
    while True:
        if drawn := draw(kind, rng, split):
            scene, question = drawn
            pictures = tuple(render(scene, Style(rng.getrandbits(48))).image() for _ in range(RENDERINGS))
            yield Candidate(scene, question, question.put(rng), pictures)


def _right(kind: str, said: str, candidate: Candidate) -> bool:
    """A caption is right when it names what is there and nothing else; an answer when it is the expected one."""
    if kind == "short_caption":
        return sorted(mentions(said)) == sorted(candidate.scene.counts)
    return matches(said, (candidate.question.answer,))


def find_errors(
    vlm: VLM, kind: str, draw: Drawer, count: int, rng: random.Random, split: str, tried: Tried
) -> list[tuple[Candidate, int, str]]:
    """Up to ``count`` stable errors of one kind: candidate, first rendering that went wrong, what was said of it."""
    stream, found, idle = _candidates(kind, draw, rng, split), [], 0
    seen: set[str] = set()
    while len(found) < count and idle < PATIENCE:
        batch = [next(stream) for _ in range(BATCH)]
        said = vlm.generate(vlm.prepare([Example(c.put, p) for c in batch for p in c.pictures]), max_new_tokens=48)
        tried.asked[kind] += len(batch)
        before = len(found)
        for i, candidate in enumerate(batch):
            answers = said[i * RENDERINGS : (i + 1) * RENDERINGS]
            wrong = [n for n, text in enumerate(answers) if not _right(kind, text, candidate)]
            key = candidate.scene.country.name if candidate.scene.country else repr(candidate.scene)
            if len(wrong) >= WRONG and key not in seen:
                seen.add(key)
                tried.wrong[kind] += 1
                found.append((candidate, wrong[0], answers[wrong[0]]))
        idle = 0 if len(found) > before else idle + 1
    return found[:count]


def _answered_rightly(vlm: VLM, make: Callable[[], Example], count: int) -> list[Example]:
    """``count`` examples, drawn until the model answers so many rightly, no two alike."""
    kept: list[Example] = []
    while len(kept) < count:
        drawn = [make() for _ in range(max(16, count))]
        said = vlm.generate(vlm.prepare(drawn), max_new_tokens=16)
        kept += [e for e, text in zip(drawn, said, strict=True) if matches(text, e.accepted)]
    return kept[:count]


def _locality(vlm: VLM, count: int, rng: random.Random, split: str) -> list[tuple[Example, Example]]:
    """For each case a text fact of a country that this split edits nothing of, and a question about another picture."""
    home = [c for c in _mine(split) if c.seen]

    def text() -> Example:
        country = rng.choice(home)
        relation = rng.choice([r for r in country.facts if r != country.stale])
        q = fact(country, relation)
        return Example(q.put(rng), None, q.answer)

    def picture() -> Example:
        while True:
            scene = draw_flag_scene(rng, rng.choice(home)) if rng.random() < 0.4 else draw_scene(rng, "natural")
            if q := ask(scene, "name" if scene.country else rng.choice(("colour", "pattern", "place")), rng):
                return Example(q.put(rng), render(scene, Style(rng.getrandbits(48))).image(), q.answer)

    return list(zip(_answered_rightly(vlm, text, count), _answered_rightly(vlm, picture, count), strict=True))


def _reworded(candidate: Candidate, rng: random.Random) -> str:
    while (other := candidate.question.put(rng, plain=0.0)) == candidate.put:
        pass
    return other


def _write(
    name: str,
    errors: Sequence[tuple[Candidate, int, str]],
    near: Sequence[tuple[Example, Example]],
    out: Path,
    rng: random.Random,
) -> None:
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)

    def saved(image: Image.Image | Path | None, label: str) -> Path:
        assert isinstance(image, Image.Image)
        path = folder / f"{label}.png"
        image.save(path, optimize=True)
        return path

    cases: list[EditCase] = []
    for i, ((candidate, wrong, said), (text, other)) in enumerate(zip(errors, near, strict=True)):
        label, target = f"{name}_{i:04d}", candidate.question.answer
        image = saved(candidate.pictures[wrong], label)
        again = saved(candidate.pictures[(wrong + 1) % RENDERINGS], f"{label}_again")
        far = saved(other.image, f"{label}_other")
        probes = (
            Probe(TEXT_GENERALITY, Example(_reworded(candidate, rng), image, target)),
            Probe(IMAGE_GENERALITY, Example(candidate.put, again, target)),
            Probe(TEXT_LOCALITY, text),
            Probe(IMAGE_LOCALITY, Example(other.question, far, other.answer)),
        )
        cases.append(EditCase(f"{name}-{i}", Example(candidate.put, image, target), said, probes, name))
    mmedit.write(cases, out / f"{name}.json")


def build(
    vlm: VLM,
    out: Path,
    *,
    evqa: dict[str, int],
    eic: dict[str, int],
    seed: int,
    on_kind: Callable[[str], None] | None = None,
) -> dict[str, Tried]:
    """Write ``{evqa,eic}_{train,eval}.json`` and their pictures below ``out``.

    Args:
        vlm: whose errors are collected.
        evqa: how many question cases for each split ("train", "eval"); a split with none is not written.
        eic: how many caption cases.
        seed: of the scenes that are tried.

    Returns:
        For each file, how many candidates were asked and how many stayed wrong, by kind.
    """
    tried: dict[str, Tried] = {}
    for task, sizes in (("evqa", evqa), ("eic", eic)):
        for split, count in sizes.items():
            if not count:
                continue
            name = f"{task}_{split}"
            rng, tally = random.Random(f"{seed}/{name}"), tried.setdefault(name, Tried())
            quotas = (
                {k: max(1, round(q * count)) for k, q in QUOTAS.items()} if task == "evqa" else {"short_caption": count}
            )
            draw = _scene_question if task == "evqa" else _caption_question
            errors: list[tuple[Candidate, int, str]] = []
            for kind, quota in quotas.items():
                if on_kind:
                    on_kind(f"{name}: {kind}")
                errors += find_errors(vlm, kind, draw, quota, rng, split, tally)
            rng.shuffle(errors)
            errors = errors[:count]
            _write(name, errors, _locality(vlm, len(errors), rng, split), out, rng)
    return tried
