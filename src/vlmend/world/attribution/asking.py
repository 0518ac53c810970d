"""Questions about one thing of a scene, with the thing's mask; and what a trial of attributions finds."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate
from vlmend.world.questions import ask
from vlmend.world.render import Style, render
from vlmend.world.scene import draw_scene

__all__ = ["Finding", "Shown", "Trial", "about_one_thing"]

_KINDS = ("colour", "pattern", "which")


@dataclass(frozen=True)
class Trial:
    """How much is asked.

    Attributes:
        n: cases that are reported on.
        validation: cases that settings (a layer, a threshold) are chosen on; none of them is reported on.
        seed: of what is drawn.
    """

    n: int = 200
    validation: int = 40
    seed: int = 9_100_001

    @property
    def choosing(self) -> Trial:
        """The draw that settings are chosen on."""
        return replace(self, n=self.validation, seed=self.seed + 1)


@dataclass(frozen=True)
class Finding:
    """One line of a trial.

    Attributes:
        of: what was tried: a method and its layer, an editor, a kind of case.
        measured: what was measured of it.
        estimate: with its number of cases and its 95 % interval.
        note: what was chosen, and how.
    """

    of: str
    measured: str
    estimate: Estimate
    note: str = ""


@dataclass(frozen=True, eq=False)
class Shown:
    """A question about one thing, which of its kind is alone, and where it is.

    Attributes:
        example: the question.
        mask: the thing's pixels, bool [height, width].
        other: those of another thing of the scene, drawn at random; ``None`` where it is the only one.
    """

    example: Example
    mask: np.ndarray
    other: np.ndarray | None = None


def about_one_thing(n: int, seed: int) -> list[Shown]:
    """Colours and patterns of things, and which thing has a colour, half on natural and half on uniform scenes."""
    rng = random.Random(f"{seed}/one thing")
    made: list[Shown] = []
    while len(made) < n:
        scene, kind = draw_scene(rng, rng.choice(("natural", "uniform"))), rng.choice(_KINDS)
        question = ask(scene, kind, rng)
        thing = question and (question.slots["x"] if kind != "which" else question.answer)
        if question is None or scene.counts[thing or ""] != 1:
            continue
        index = next(i for i, one in enumerate(scene.things) if one.kind == thing)
        picture = render(scene, Style(rng.getrandbits(48)))
        example = Example(question.put(rng), picture.image(), question.answer)
        others = [i for i in range(len(scene.things)) if i != index and (picture.mask == i + 1).any()]
        other = picture.mask == others[len(made) % len(others)] + 1 if others else None
        made.append(Shown(example, picture.mask == index + 1, other))
    return made
