"""What tells the data of one run from another's: hashes, in order, of all that they say.

Pictures count by file name, wherever they lie: a data set that was moved is the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlmend.data.records import EditCase, Example, PreferencePair
from vlmend.models.pictures import Picture

__all__ = ["identity", "identity_of_pairs"]


def identity(cases: Sequence[EditCase]) -> dict[str, Any]:
    """How many cases there are, and a hash of what they ask and expect."""
    digest = hashlib.blake2b(digest_size=8)
    for case in cases:
        digest.update(f"{case.id}\0{case.counterfactual}".encode())
        digest.update("\0".join(_asked(case.request)).encode())
        for probe in case.probes:
            for example in (probe.example, *probe.premises):
                digest.update("\0".join((probe.kind, *_asked(example))).encode())
    return {"count": len(cases), "hash": digest.hexdigest()}


def identity_of_pairs(pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """How many pairs there are, and a hash of their questions, answers and labels."""
    digest = hashlib.blake2b(digest_size=8)
    for pair in pairs:
        told = (pair.id, pair.question, pair.chosen, pair.rejected, _names(pair.pictures))
        digest.update("\0".join((*told, str(pair.chosen_spans), str(pair.rejected_spans), "")).encode())
    return {"count": len(pairs), "hash": digest.hexdigest()}


def _asked(example: Example) -> tuple[str, ...]:
    return (example.question, example.answer or "", _names(example.pictures), *example.aliases)


def _names(pictures: Iterable[Picture]) -> str:
    return "/".join(picture.name if isinstance(picture, Path) else "" for picture in pictures)
