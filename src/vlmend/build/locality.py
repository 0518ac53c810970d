"""Questions that must keep their answers, dealt out of given pools, evenly and with nothing of the edits in them."""

from __future__ import annotations

import random
from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from vlmend.build.answers import alike
from vlmend.build.content import shown
from vlmend.data.pictures import examples_of
from vlmend.data.records import EditCase, Example, Probe
from vlmend.evaluation.text import normalised

__all__ = ["apart", "dealt", "tells"]


def apart(pool: Sequence[Example], cases: Sequence[EditCase]) -> tuple[list[Example], Counter[str]]:
    """What of a pool has nothing to do with any case, each picture or else question once; and why the rest is out."""
    pictures = {picture for case in cases for one in examples_of(case) for picture in shown(one)}
    questions = {normalised(case.request.question) for case in cases}
    kept: dict[tuple[str, ...], Example] = {}
    dropped: Counter[str] = Counter()
    for one in pool:
        seen = shown(one)
        item = seen or (normalised(one.question),)
        if not (one.answer or "").strip():
            dropped["no answer"] += 1
        elif pictures & set(seen):
            dropped["picture of an edit"] += 1
        elif not seen and item[0] in questions:
            dropped["question of an edit"] += 1
        elif item in kept:
            dropped["twice"] += 1
        else:
            kept[item] = one
    return list(kept.values()), dropped


def dealt(
    sides: Sequence[Sequence[EditCase]], pool: Sequence[Example], kind: str, *, seed: int
) -> tuple[tuple[list[EditCase], ...], list[str]]:
    """The cases of each side with a probe of a kind more; a pool is divided among the sides by their sizes.

    A case is given what was given least often of what it may be asked (`tells`), so that every one of a side's share
    is asked before one is asked again, as far as that goes.

    Returns:
        The sides, and the ids of the cases that are given none of their side's share, for each tells their answers.
    """
    order = random.Random(f"{seed}/{kind}").sample(list(pool), len(pool))
    total, start, done = sum(map(len, sides)), 0, 0
    made: list[list[EditCase]] = []
    without: list[str] = []
    for side in sides:
        done += len(side)
        end = round(len(order) * done / max(1, total))
        share = _Share(order[start:end])
        start = end
        given = [share.given(case) for case in side]
        made.append(
            [
                replace(case, probes=(*case.probes, Probe(kind, one))) if one else case
                for case, one in zip(side, given, strict=True)
            ]
        )
        without += [case.id for case, one in zip(side, given, strict=True) if one is None and share.items]
    return tuple(made), without


def tells(case: EditCase, example: Example) -> bool:
    """Whether an example's answer is the case's target, or what the model says instead: an edit that makes the model
    say either everywhere would change nothing there, or what it says elsewhere would be taken for the edit's doing."""
    mine = [one for one in (*case.request.accepted, case.rejected or "") if one.strip()]
    return any(alike(answer, mine) for answer in example.accepted)


class _Share:
    """What a side may be asked, those first that were given least often."""

    def __init__(self, items: Sequence[Example]) -> None:
        self.items = items
        self._waiting = [(0, place) for place in range(len(items))]  # (times given, place), smallest first

    def given(self, case: EditCase) -> Example | None:
        """One that the case may be asked."""
        for at, (times, place) in enumerate(self._waiting):
            if not tells(case, self.items[place]):
                del self._waiting[at]
                insort(self._waiting, (times + 1, place))
                return self.items[place]
        return None
