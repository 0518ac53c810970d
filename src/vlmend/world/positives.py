"""Pictures of the demo world with right answers, as conversations: what worse answers are made for.

Scenes are natural: what is expected is mostly there. A model that goes by that is right most of the time, and its worse
answers are those in which it is not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlmend.data.formats import conversations
from vlmend.data.formats.notes import notes_of
from vlmend.data.records import EditCase, Example
from vlmend.errors import UnknownNameError
from vlmend.models.pictures import save_picture
from vlmend.world.captions import FORMS, Form, caption
from vlmend.world.exam.asking import picture, stream
from vlmend.world.questions import Question, ask
from vlmend.world.scene import Scene

__all__ = ["KINDS", "write"]

KINDS: tuple[str, ...] = ("exist", "colour", "count", "howmany", "which", "pattern", "place", "quadrant", "neighbour")
"""The kinds of question, in turn."""


def write(
    out: Path, captions: int, questions: int, seed: int, form: Form = "short", kinds: Sequence[str] = KINDS
) -> Path:
    """Write ``positives.json``, conversations as LLaVA-Instruct has them, and its pictures below ``out``.

    Args:
        out: a folder.
        captions: how many descriptions, each of a scene of its own.
        questions: how many questions, each on a scene of its own, of ``kinds`` in turn.
        seed: of what is drawn.
        form: of the descriptions.
        kinds: some of `KINDS`.

    Returns:
        the file.

    Raises:
        UnknownNameError: there is no such form, or kind of question.
        WriteError: a file cannot be written.
    """
    if form not in FORMS:
        raise UnknownNameError("form of description", form, FORMS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UnknownNameError("kind of question", unknown[0], KINDS)
    rng = random.Random(f"{seed}/positives")
    scenes = (scene for scene in stream(rng, ("natural",)) if scene.things)
    cases: list[EditCase] = []
    for number in range(captions + questions):
        kind = kinds[number % len(kinds)]
        asked, scene = _described(scenes, form) if number < captions else _asked(scenes, kind, rng)
        file = save_picture(picture(scene, rng), out / "images" / f"positive_{number:05d}.png")
        example = Example(asked.put(rng), file, asked.answer)
        cases.append(EditCase(f"positive-{number}", example, notes=notes_of({"kind": asked.kind})))
    path = out / "positives.json"
    conversations.write(cases, path)
    return path


def _described(scenes: Iterator[Scene], form: Form) -> tuple[Question, Scene]:
    scene = next(scenes)
    return Question(f"{form}_caption", caption(scene, form)), scene


def _asked(scenes: Iterator[Scene], kind: str, rng: random.Random) -> tuple[Question, Scene]:
    """The next scene of which such a question can be asked."""
    while True:
        scene = next(scenes)
        if question := ask(scene, kind, rng):
            return question, scene
