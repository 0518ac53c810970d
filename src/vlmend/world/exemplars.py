"""Pictures of the world with questions and their right answers, as somebody who has many pictures would have them; and
facts, which are asked without any."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vlmend.data.formats import plain
from vlmend.data.formats.notes import notes_of
from vlmend.data.records import IMAGE_GENERALITY, EditCase, Example, Probe
from vlmend.errors import VlmendError
from vlmend.models.pictures import save_picture
from vlmend.world.captions import caption
from vlmend.world.corpus import fact
from vlmend.world.entities import countries
from vlmend.world.questions import ASKERS, ask
from vlmend.world.render import Style, render
from vlmend.world.scene import Scene, draw_flag_scene, draw_scene

__all__ = ["draw", "facts", "write", "write_facts"]

_QUESTIONS = 3  # a picture
_MODES = ("natural", "counter", "uniform")


def draw(count: int, seed: int) -> Iterator[tuple[Image.Image, list[Example], Scene]]:
    """Pictures, every second one of a flag, up to three questions about each, and what it is of."""
    rng = random.Random(f"exemplars/{seed}")
    for number in range(count):
        scene = _scene(rng, number)
        image = render(scene, Style(rng.getrandbits(32))).image()
        kinds = rng.sample(sorted(ASKERS), len(ASKERS))
        found = [question for kind in kinds if (question := ask(scene, kind, rng))][:_QUESTIONS]
        yield image, [Example(question.put(rng), image, question.answer) for question in found], scene


def _scene(rng: random.Random, number: int) -> Scene:
    if number % 2:
        return draw_flag_scene(rng, rng.choice(countries()))
    return draw_scene(rng, rng.choice(_MODES))


def facts(count: int, seed: int) -> list[Example]:
    """Facts by name, each another one; those that are stale, and so told in two ways, are left out.

    Raises:
        VlmendError: the world has not so many.
    """
    rng = random.Random(f"facts/{seed}")
    known = [(country, relation) for country in countries() for relation in country.facts if relation != country.stale]
    if count > len(known):
        raise VlmendError(f"the world has {len(known)} facts, not {count}: ask for fewer")
    asked = (fact(country, relation) for country, relation in rng.sample(known, count))
    return [Example(question.put(rng), None, question.answer) for question in asked]


def write_facts(out: Path, count: int, seed: int) -> Path:
    """Write ``exemplars.jsonl``, cases without pictures and probes, below ``out``; returns the file.

    Raises:
        VlmendError: the world has not so many.
        WriteError: it cannot be written.
    """
    path = out / "exemplars.jsonl"
    examples = enumerate(facts(count, seed))
    plain.write([EditCase(f"fact-{number}", example, source="world") for number, example in examples], path)
    return path


def write(out: Path, count: int, seed: int, *, again: bool = False) -> Path:
    """Write ``exemplars.jsonl``, cases without probes, and its pictures below ``out``; returns the file.

    With ``again`` every case has a second picture, of the same drawn anew, and a note ``shown`` of what is in them.

    Raises:
        WriteError: one of them cannot be written.
    """
    path, folder = out / "exemplars.jsonl", out / "images"
    cases: list[EditCase] = []
    for number, (image, examples, scene) in enumerate(draw(count, seed)):
        file = folder / f"exemplar_{number:05d}.png"
        save_picture(image, file)
        some = [
            EditCase(f"exemplar-{number}-{place}", replace(example, image=file), source="world")
            for place, example in enumerate(examples)
        ]
        if again:
            style = Style(random.Random(f"exemplars/{seed}/{number}/again").getrandbits(32))
            second = save_picture(render(scene, style).image(), folder / f"exemplar_{number:05d}_again.png")
            some = [_with_second(case, second, caption(scene, "short")) for case in some]
        cases += some
    plain.write(cases, path)
    return path


def _with_second(case: EditCase, picture: Path, shown: str) -> EditCase:
    probe = Probe(IMAGE_GENERALITY, replace(case.request, image=picture))
    return replace(case, probes=(probe,), notes=notes_of({"shown": shown}))
