"""What is expected beside what a picture shows, of pictures with good answers alone: what the other answers say.

An object is expected in a picture whose good answers do not name it if, of the pictures whose good answers name some
object of this one, more than half have answers that name it too: as far as the data tells it is likelier to be there
than not. So a dose curve (`dose.py`) can be had of data of which nobody has noted what is absent.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

from vlmend.data.records import EditCase, Example
from vlmend.errors import PromptError
from vlmend.evaluation.hallucination.dose import Described
from vlmend.models.pictures import listed
from vlmend.models.vlm import VLM

__all__ = ["expecting"]

_DESCRIBES = 2  # objects that an answer names which describes its picture; one that names fewer answers a question
_LEAST = 5  # other pictures that must show an object before it is said what goes with it


def expecting(
    vlm: VLM, cases: Sequence[EditCase], named: Callable[[str], Iterable[str]], most: int, seed: int
) -> list[Described]:
    """Pictures of the data that lack what is expected beside what they show, to be described again.

    Args:
        vlm: who is asked; what it cannot be asked is left out.
        cases: pictures with questions and good answers, several perhaps of one picture.
        named: the objects that a text names.
        most: how many pictures; drawn, if there are more.
        seed: of the draw.

    Returns:
        at most one for each picture, asked what its own description answers.
    """
    shown: dict[Any, frozenset[str]] = {}
    describing: dict[Any, EditCase] = {}
    for case in cases:
        picture = listed(case.request.image)
        if picture:
            names = frozenset(named(case.request.answer or ""))
            shown[picture] = shown.get(picture, frozenset()) | names
            if len(names) >= _DESCRIBES:
                describing.setdefault(picture, case)
    companions = _companions([shown[picture] for picture in describing])
    found: list[Described] = []
    for picture in random.Random(f"{seed}/expecting").sample(list(describing), len(describing)):
        if len(found) == most:
            break
        present, case = shown[picture], describing[picture]
        expected = frozenset(other for one in present for other in companions.get(one, ())) - present
        example = replace(case.request, answer=None)
        if expected and _readable(vlm, example):
            found.append(Described(case.id, example, present, expected))
    return found


def _companions(pictures: Sequence[frozenset[str]]) -> Mapping[str, Sequence[str]]:
    """Object -> those that more than half of the other pictures with it show: other than one that lacks them."""
    alone = Counter(name for names in pictures for name in names)
    together = Counter(pair for names in pictures for pair in permutations(sorted(names), 2))
    found: dict[str, list[str]] = {}
    for (one, other), count in together.items():
        others = alone[one] - 1
        if others >= _LEAST and count > others / 2:
            found.setdefault(one, []).append(other)
    return found


def _readable(vlm: VLM, example: Example) -> bool:
    try:
        vlm.prepare([example])
    except PromptError:
        return False
    return True
