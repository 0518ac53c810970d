"""Questions about objects: trained and held-out phrasings, both looks, existence as POPE asks it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from PIL import Image

from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate
from vlmend.models.vlm import VLM
from vlmend.world.corpus import fact
from vlmend.world.entities import countries
from vlmend.world.exam.asking import Settings, picture, reworded, share, stream
from vlmend.world.questions import Question, absent_kinds, ask
from vlmend.world.render import Look
from vlmend.world.scene import Scene, draw_flag_scene

SCENE_KINDS = ("colour", "pattern", "which", "count", "howmany", "quadrant", "relation", "neighbour", "place")


def _drawn(kind: str, n: int, rng: random.Random) -> Iterator[tuple[Scene, Question]]:
    """``n`` questions of one kind, each about a scene of its own, half natural, half uniform."""
    found = ((scene, ask(scene, kind, rng)) for scene in stream(rng, ("natural", "uniform")))
    return itertools.islice(((scene, q) for scene, q in found if q), n)


def ask_scenes(kind: str, n: int, rng: random.Random, look: Look = "a") -> list[Example]:
    """The same as examples in trained phrasings, each with a picture of its own."""
    return [Example(q.put(rng), picture(scene, rng, look), q.answer) for scene, q in _drawn(kind, n, rng)]


def scenes(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Questions about objects, in trained phrasings; some of them in look b."""
    rng = random.Random(f"{settings.seed}/scenes")
    out = {kind: share(vlm, ask_scenes(kind, settings.n, rng)) for kind in SCENE_KINDS}
    return out | {
        f"{kind}, look b": share(vlm, ask_scenes(kind, settings.n // 2, rng, "b"))
        for kind in ("colour", "pattern", "which")
    }


def held_out(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Phrasings that training never used against trained ones, for the same questions about the same pictures."""
    rng = random.Random(f"{settings.seed}/held out")
    out: dict[str, Estimate] = {}
    for kind in SCENE_KINDS:
        shown = [(q, picture(scene, rng)) for scene, q in _drawn(kind, settings.n, rng)]
        out |= reworded(vlm, kind, [_both(q, image, rng) for q, image in shown])
    named = [(c, picture(draw_flag_scene(rng, c), rng)) for c in countries() if c.seen]
    out |= reworded(vlm, "name", [_both(Question("name", c.name), image, rng) for c, image in named])
    known = rng.sample([fact(c, r) for c in countries() for r in c.facts if r != c.stale], settings.n)
    out |= reworded(vlm, "facts", [_both(q, None, rng) for q in known])
    lost = [e for name, e in out.items() if name.endswith("lost by held-out phrasings")]
    return out | {"held-out phrasings, largest loss": max(lost, key=lambda e: e.mean)}


def _both(q: Question, image: Image.Image | None, rng: random.Random) -> tuple[Example, Example]:
    """A question in a trained and in a held-out phrasing."""
    return Example(q.put(rng), image, q.answer), Example(q.put(rng, "held_out"), image, q.answer)


def pope(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Existence on natural scenes, half of the questions about something present (POPE, Li et al. 2023)."""
    out: dict[str, Estimate] = {}
    for setting in ("random", "popular", "adversarial"):
        rng = random.Random(f"{settings.seed}/pope/{setting}")
        asked: list[Example] = []
        for scene in stream(rng, ("natural",)):
            if len(asked) >= 2 * settings.n:
                break
            if scene.things and not (setting == "adversarial" and not scene.expected):
                image = picture(scene, rng)
                absent = rng.choice(absent_kinds(scene)[setting])
                for kind, answer in ((rng.choice(list(scene.counts)), "yes"), (absent, "no")):
                    asked.append(Example(Question("exist", answer, {"x": kind}).put(rng), image, answer))
        out[f"pope {setting}"] = share(vlm, asked)
    return out
