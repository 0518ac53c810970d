"""Questions that must keep their answers, dealt out of given pools, evenly and with nothing of the edits in them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from vlmend.data.pictures import examples_of
from vlmend.data.records import EditCase, Example, Probe
from vlmend.evaluation.text import normalised
from vlmend.models.pictures import content_hash, open_picture

__all__ = ["apart", "dealt"]


def apart(pool: Sequence[Example], cases: Sequence[EditCase]) -> tuple[list[Example], Counter[str]]:
    """What of a pool has nothing to do with any case, each picture or else question once; and why the rest is out."""
    pictures = {_content(picture) for case in cases for one in examples_of(case) for picture in one.pictures}
    questions = {normalised(case.request.question) for case in cases}
    kept: dict[tuple[str, ...], Example] = {}
    dropped: Counter[str] = Counter()
    for one in pool:
        shown = tuple(map(_content, one.pictures))
        item = shown or (normalised(one.question),)
        if not (one.answer or "").strip():
            dropped["no answer"] += 1
        elif pictures & set(shown):
            dropped["picture of an edit"] += 1
        elif not shown and item[0] in questions:
            dropped["question of an edit"] += 1
        elif item in kept:
            dropped["twice"] += 1
        else:
            kept[item] = one
    return list(kept.values()), dropped


def dealt(
    sides: Sequence[Sequence[EditCase]], pool: Sequence[Example], kind: str, *, seed: int
) -> tuple[list[EditCase], ...]:
    """The cases of each side with a probe of a kind more; a pool is divided among the sides by their sizes.

    Every one of a side's share is asked before one is asked again; a side whose share is empty gets none.
    """
    order = random.Random(f"{seed}/{kind}").sample(list(pool), len(pool))
    total, start, made = sum(map(len, sides)), 0, list[list[EditCase]]()
    done = 0
    for side in sides:
        done += len(side)
        end = round(len(order) * done / max(1, total))
        share = order[start:end]
        start = end
        made.append(
            [
                replace(case, probes=(*case.probes, Probe(kind, share[number % len(share)]))) if share else case
                for number, case in enumerate(side)
            ]
        )
    return tuple(made)


def _content(picture: object) -> str:
    return content_hash(open_picture(picture))  # type: ignore[arg-type]
