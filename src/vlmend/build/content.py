"""What records are, whatever their files are called: equal words and equal pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from vlmend.data.records import EditCase, Example
from vlmend.evaluation.text import normalised
from vlmend.models.pictures import content_hash, open_picture

__all__ = ["Item", "contents", "first_of_each", "item", "shown"]

Item = tuple[tuple[str, ...], str]
"""Pictures by what they show, and a question."""


def shown(example: Example) -> tuple[str, ...]:
    """The hashes of an example's pictures, in their order."""
    return tuple(content_hash(open_picture(picture)) for picture in example.pictures)


def item(example: Example) -> Item:
    """What tells a question about pictures from others."""
    return shown(example), normalised(example.question)


def first_of_each(cases: Sequence[EditCase]) -> tuple[list[EditCase], list[Item], list[str]]:
    """The cases without those that ask what one before them asks; what each of them asks; and the ids of the rest."""
    kept: dict[Item, EditCase] = {}
    again: list[str] = []
    for case in cases:
        asked = item(case.request)
        if asked in kept:
            again.append(case.id)
        else:
            kept[asked] = case
    return list(kept.values()), list(kept), again


def contents(cases: Sequence[EditCase]) -> dict[str, Any]:
    """How many cases there are, and a hash of all that they say and show, in their order."""
    digest = hashlib.blake2b(digest_size=8)
    for case in cases:
        probes = [
            (probe.kind, probe.hops, probe.notes, *map(_told, (probe.example, *probe.premises)))
            for probe in case.probes
        ]
        told = (case.id, _told(case.request), case.notes, case.counterfactual, probes)
        digest.update(f"{json.dumps(told)}\n".encode())
    return {"count": len(cases), "hash": digest.hexdigest()}


def _told(example: Example) -> tuple[Any, ...]:
    return example.question, shown(example), example.answer, example.aliases
