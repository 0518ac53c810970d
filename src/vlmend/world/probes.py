"""The probes of a case: what must change with the answer, what follows from it, and what must stay."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from PIL import Image

from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    NO_IMAGE_LOCALITY,
    OOD_GENERALITY,
    PORTABILITY,
    SAME_IMAGE_LOCALITY,
    SAME_QUESTION_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
    Example,
    Probe,
)
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.world.candidates import RENDERINGS, Candidate, Found, mine
from vlmend.world.corpus import fact
from vlmend.world.entailment import follows, nearby, recognition, same_question
from vlmend.world.entities import Country, by_name
from vlmend.world.questions import Question, ask
from vlmend.world.render import Look, Style, render
from vlmend.world.scene import Scene, draw_flag_scene, draw_scene

__all__ = ["probes_of"]

_FOLLOWING = 2  # portability probes a case
_FACTS = 60  # that are tried until the model knows one that no other case has taken
_OPTIONS = 6  # near misses that are tried until the model gets one right


def probes_of(
    vlm: VLM, found: Sequence[Found], rng: random.Random, split: str, away: Collection[Country] = ()
) -> list[tuple[Probe, ...]]:
    """The probes of every case. Locality asks what the model answers rightly, nearby as well as elsewhere, and of no
    country to keep ``away`` from but the case's own.

    A near miss is left out where the model gets none right that was tried, portability where nothing follows or the
    target is not true.
    """
    home = [country for country in mine(split) if country.seen and country not in away]
    texts = _answered_rightly(vlm, [islice(_facts(one, rng, home), _FACTS) for one in found])
    pictures = _answered_rightly(vlm, [_elsewhere(rng, home) for _ in found])
    beside = _answered_rightly(vlm, [islice(_same_image(one, rng), _OPTIONS) for one in found])
    again = _answered_rightly(vlm, [islice(_same_question(one, rng, away), _OPTIONS) for one in found])
    made: list[tuple[Probe, ...]] = []
    for one, *kept in zip(found, texts, pictures, beside, again, strict=True):
        kinds = (TEXT_LOCALITY, IMAGE_LOCALITY, SAME_IMAGE_LOCALITY, SAME_QUESTION_LOCALITY)
        stays = [Probe(kind, example) for kind, example in zip(kinds, kept, strict=True) if example]
        made.append((*_changes(one, rng), *stays, _without_picture(one)))
    return made


def _changes(one: Found, rng: random.Random) -> Iterator[Probe]:
    """What must answer the target: generality; and what follows from it."""
    candidate, image = one.candidate, one.candidate.pictures[one.rendering]
    target = candidate.question.answer
    yield Probe(TEXT_GENERALITY, Example(_reworded(candidate, rng), image, target))
    again = candidate.pictures[(one.rendering + 1) % RENDERINGS]
    drawn = _drawn(candidate.scene, rng, "b")
    for kind, picture in ((IMAGE_GENERALITY, again), (OOD_GENERALITY, drawn)):
        yield Probe(kind, Example(candidate.put, picture, target), premises=(_recognised(candidate, picture, rng),))
    entailed = [] if candidate.truth else follows(candidate.scene, candidate.question, one.said)
    for question in rng.sample(entailed, min(_FOLLOWING, len(entailed))):
        picture = None if question.kind == "fact" else image
        premises = (_recognised(candidate, image, rng), *_known(candidate, question, rng))
        yield Probe(PORTABILITY, Example(question.put(rng), picture, question.answer), premises=premises)


def _reworded(candidate: Candidate, rng: random.Random) -> str:
    while (other := candidate.question.put(rng, plain=0.0)) == candidate.put:
        pass
    return other


def _recognised(candidate: Candidate, picture: Image.Image, rng: random.Random) -> Example:
    seen = recognition(candidate.scene, candidate.question)
    return Example(seen.put(rng), picture, seen.answer)


def _known(candidate: Candidate, question: Question, rng: random.Random) -> Iterator[Example]:
    """The fact that a question about a newly named country rests on, asked by name."""
    if candidate.question.kind == "name":
        told = fact(by_name()[candidate.question.answer], question.slots["rel"])
        yield Example(told.put(rng), None, told.answer)


def _without_picture(one: Found) -> Probe:
    """The same question of nothing: whatever the model says then, it goes on saying it."""
    return Probe(NO_IMAGE_LOCALITY, Example(one.candidate.put, None, one.candidate.question.answer))


def _same_image(one: Found, rng: random.Random) -> Iterator[Example]:
    candidate = one.candidate
    true = {"truth": candidate.truth} if candidate.truth else {}
    about = replace(candidate.question, slots={**candidate.question.slots, **true})
    while question := nearby(candidate.scene, about, rng):
        yield Example(question.put(rng), candidate.pictures[one.rendering], question.answer)


def _same_question(one: Found, rng: random.Random, away: Collection[Country]) -> Iterator[Example]:
    candidate = one.candidate
    while other := same_question(candidate.scene, candidate.question, rng):
        scene, answer = other
        if scene.country not in away:
            yield Example(candidate.put, _drawn(scene, rng), answer)


def _facts(one: Found, rng: random.Random, home: Sequence[Country]) -> Iterator[Example]:
    """Facts by name: those of the country whose flag is given another name; else of any, but what is stale."""
    scene, target = one.candidate.scene, one.candidate.question
    renamed = scene.country if scene.country and target.kind == "name" and target.answer != scene.country.name else None
    while True:
        country = renamed or rng.choice(home)
        question = fact(country, rng.choice([r for r in country.facts if r != country.stale]))
        yield Example(question.put(rng), None, question.answer)


def _elsewhere(rng: random.Random, home: Sequence[Country]) -> Iterator[Example]:
    while True:
        scene = draw_flag_scene(rng, rng.choice(home)) if rng.random() < 0.4 else draw_scene(rng, "natural")
        if q := ask(scene, "name" if scene.country else rng.choice(("colour", "pattern", "place")), rng):
            yield Example(q.put(rng), _drawn(scene, rng), q.answer)


def _drawn(scene: Scene, rng: random.Random, look: Look = "a") -> Image.Image:
    return render(scene, Style(rng.getrandbits(48), look)).image()


def _answered_rightly(vlm: VLM, options: Sequence[Iterator[Example]]) -> list[Example | None]:
    """For each stream the first example that the model answers rightly, no two alike; ``None`` where it ends before."""
    kept: list[Example | None] = [None] * len(options)
    taken: set[str] = set()
    left = dict(enumerate(options))
    while left:
        drawn = {place: next(stream, None) for place, stream in left.items()}
        asked = {place: example for place, example in drawn.items() if example is not None}
        said = vlm.generate(vlm.prepare(list(asked.values())), max_new_tokens=32) if asked else []
        for (place, example), text in zip(asked.items(), said, strict=True):
            alike = example.question if example.image is None else ""
            if matches(text, example.accepted) and (not alike or alike not in taken):
                kept[place] = example
                taken |= {alike}
        left = {place: left[place] for place in asked if kept[place] is None}
    return kept
