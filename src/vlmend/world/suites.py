"""POPE and CHAIR on scenes of the demo world, where what a picture shows is known and not annotated.

Every second scene is counter to the prior: it lacks a companion that is expected beside what it shows. POPE asks of an
object that is there and of one that is not, in its three settings (arXiv 2305.10355): any absent kind, one
that is common in such a place, and, where there is one, the absent companion of something present.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence

from PIL import Image

from vlmend.data.questions import Key, YesNoQuestion
from vlmend.data.records import Example
from vlmend.evaluation.hallucination.asking import Suite
from vlmend.evaluation.hallucination.chair import DEFAULT as CHAIR
from vlmend.evaluation.hallucination.chair import chair
from vlmend.evaluation.hallucination.chair import protocol_of as chair_protocol
from vlmend.evaluation.hallucination.pope import DEFAULT as POPE
from vlmend.evaluation.hallucination.pope import pope
from vlmend.evaluation.hallucination.pope import protocol_of as pope_protocol
from vlmend.world.catalog import catalog
from vlmend.world.exam.asking import picture, stream
from vlmend.world.questions import Question, absent_kinds
from vlmend.world.scene import Scene

__all__ = ["SUITES", "chair_suite", "exist_questions", "pope_suite"]

SEED = 7_000_001  # of no training and no examination


def pope_suite(scenes: int, seed: int = SEED, *, protocol: str | None = None) -> Suite:
    """Four or six yes/no questions on each of so many scenes, half of them to be answered by yes."""
    questions, examples = exist_questions(_drawn(scenes, seed), random.Random(f"{seed}/pope"))
    asked = [(question.id, example) for question, example in zip(questions, examples, strict=True)]
    way = pope_protocol(protocol or POPE).name
    return Suite("pope", asked, lambda answers: pope(questions, answers, protocol=way))


def exist_questions(
    drawn: Sequence[tuple[Scene, Image.Image]], rng: random.Random, settings: Collection[str] | None = None
) -> tuple[list[YesNoQuestion], list[Example]]:
    """Of scenes and their pictures, in each of some settings (all by default), whether something is there that is, and
    something that is not; the adversarial setting only where a companion is expected and absent."""
    wording = catalog().cores["exist"]["trained"][0][0]
    questions: list[YesNoQuestion] = []
    examples: list[Example] = []
    for number, (scene, shown) in enumerate(drawn):
        for setting, absent in absent_kinds(scene).items():
            if (settings is not None and setting not in settings) or (setting == "adversarial" and not scene.expected):
                continue
            there = Question("exist", "yes", {"x": rng.choice(list(scene.counts))})
            missing = Question("exist", "no", {"x": rng.choice(absent)})
            for question in (there, missing):
                words = question.words(wording)
                answer = "yes" if question is there else "no"
                questions.append(YesNoQuestion(len(questions), f"scene {number}", words, answer, (setting,)))
                examples.append(Example(words, shown, answer))
    return questions, examples


def chair_suite(scenes: int, seed: int = SEED, *, protocol: str | None = None) -> Suite:
    """A caption of each of so many scenes; the world's kinds of object are all the words there are."""
    drawn = _drawn(scenes, seed)
    wording = catalog().cores["short_caption"]["trained"][0][0]
    objects: dict[Key, tuple[str, ...]] = {number: tuple(scene.counts) for number, (scene, _) in enumerate(drawn)}
    asked = [(number, Example(wording, shown)) for number, (_, shown) in enumerate(drawn)]
    words, way = "\n".join(catalog().kinds), chair_protocol(protocol or CHAIR).name
    return Suite("chair", asked, lambda answers: chair(answers, objects, protocol=way, synonyms=words))


SUITES: Mapping[str, Callable[..., Suite]] = {"pope": pope_suite, "chair": chair_suite}
"""Name -> what draws a suite of so many scenes."""


def _drawn(scenes: int, seed: int) -> list[tuple[Scene, Image.Image]]:
    """Scenes with something in them and their pictures; every second one lacks a companion that is expected."""
    rng = random.Random(f"{seed}/scenes")
    natural = (scene for scene in stream(rng, ("natural",)) if scene.things)
    counter = (scene for scene in stream(rng, ("counter",)) if scene.things and scene.expected)
    drawn = [next(counter if number % 2 else natural) for number in range(scenes)]
    return [(scene, picture(scene, rng)) for scene in drawn]
