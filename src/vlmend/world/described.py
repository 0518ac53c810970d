"""Scenes of the demo world to be described, of which is known what they show and what is expected beside it."""

from __future__ import annotations

import random

from vlmend.data.records import Example
from vlmend.evaluation.hallucination.dose import Described
from vlmend.world.catalog import catalog
from vlmend.world.exam.asking import picture
from vlmend.world.exam.describing import draw_described

__all__ = ["described"]

SEED = 7_100_001  # of no training, no examination and no suite


def described(count: int, seed: int = SEED) -> list[Described]:
    """So many scenes counter to the prior: each lacks a companion that is expected beside what it shows."""
    rng = random.Random(f"{seed}/described")
    wording = catalog().cores["short_caption"]["trained"][0][0]
    return [
        Described(
            f"scene {number}",
            Example(wording, picture(scene, rng)),
            frozenset(scene.counts),
            frozenset(scene.expected),
        )
        for number, scene in enumerate(draw_described("counter", count, rng))
    ]
