"""Questions about objects: trained and held-out phrasings, both looks, existence as POPE asks it."""

from __future__ import annotations

import random

from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate
from vlmend.models.vlm import VLM
from vlmend.world.catalog import Split
from vlmend.world.exam.asking import Settings, picture, share, stream
from vlmend.world.questions import Question, absent_kinds, ask
from vlmend.world.render import Look

SCENE_KINDS = ("colour", "pattern", "which", "count", "howmany", "quadrant", "relation", "neighbour", "place")


def _ask_scenes(kind: str, n: int, rng: random.Random, split: Split, look: Look = "a") -> list[Example]:
    """``n`` questions of one kind, each about a picture of its own, half natural, half uniform."""
    asked: list[Example] = []
    for scene in stream(rng, ("natural", "uniform")):
        if len(asked) == n:
            return asked
        if q := ask(scene, kind, rng):
            asked.append(Example(q.put(rng, split), picture(scene, rng, look), q.answer))
    raise AssertionError("the stream of scenes has no end")


def scenes(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Questions about objects, in trained phrasings."""
    rng = random.Random(f"{settings.seed}/scenes")
    return {kind: share(vlm, _ask_scenes(kind, settings.n, rng, "trained")) for kind in SCENE_KINDS}


def held_out(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """The same in phrasings that training never used, and in look b."""
    rng = random.Random(f"{settings.seed}/held out")
    n = settings.n // 2
    out = {f"{kind}, held-out phrasings": share(vlm, _ask_scenes(kind, n, rng, "held_out")) for kind in SCENE_KINDS}
    return out | {
        f"{kind}, look b": share(vlm, _ask_scenes(kind, n, rng, "trained", "b"))
        for kind in ("colour", "pattern", "which")
    }


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
