"""How much an examination asks, and how it draws, shows and scores."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate, bootstrap, wilson
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.world.render import Look, Style, render
from vlmend.world.scene import Mode, Scene, draw_scene


@dataclass(frozen=True)
class Settings:
    """How much is asked, and with which seed the scenes are drawn."""

    n: int = 400
    seed: int = 9_000_001


def stream(rng: random.Random, modes: Sequence[Mode]) -> Iterator[Scene]:
    """Scenes without end, each of one of the modes."""
    while True:
        yield draw_scene(rng, rng.choice(modes))


def picture(scene: Scene, rng: random.Random, look: Look = "a") -> Image.Image:
    """The scene rendered with a fresh seed."""
    return render(scene, Style(rng.getrandbits(48), look)).image()


def marks(vlm: VLM, asked: Sequence[Example], max_new_tokens: int = 16) -> list[bool]:
    """For each example, whether the free greedy answer is the expected one."""
    texts = vlm.generate(vlm.prepare(asked), max_new_tokens=max_new_tokens)
    return [matches(text, example.accepted) for text, example in zip(texts, asked, strict=True)]


def share(vlm: VLM, asked: Sequence[Example], max_new_tokens: int = 16) -> Estimate:
    """Share of examples whose free greedy answer is the expected one."""
    return wilson(sum(marks(vlm, asked, max_new_tokens)), len(asked))


def reworded(vlm: VLM, label: str, pairs: Sequence[tuple[Example, Example]]) -> dict[str, Estimate]:
    """Examples in a trained and in a held-out phrasing: the share right in the latter, and how much is lost by it."""
    before, after = (marks(vlm, asked) for asked in zip(*pairs, strict=True))
    lost = [float(b) - float(a) for b, a in zip(before, after, strict=True)]
    return {
        f"{label}, held-out phrasings": wilson(sum(after), len(after)),
        f"{label}, lost by held-out phrasings": bootstrap(lost),
    }
