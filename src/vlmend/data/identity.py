"""What tells the data of one run from another's: hashes, in order, of all that they say.

Pictures count by what is in their files, wherever these lie: a data set that was moved is the same one, one with
another picture under the old name is not. Where nothing else reads them all beforehand, they count by file name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vlmend.data.records import EditCase, Example, PreferencePair
from vlmend.models.pictures import Picture, content_hash

__all__ = ["identity", "identity_of_pairs"]


def identity(cases: Sequence[EditCase], *, opened: bool = True) -> dict[str, Any]:
    """How many cases there are, and a hash of what they ask, show and expect.

    Args:
        cases: whose.
        opened: read the picture files, each once; else they count by name, and need not be there.
    """
    digest = hashlib.blake2b(digest_size=8)
    known = _contents() if opened else _name
    for case in cases:
        digest.update(f"{case.id}\0{case.counterfactual}".encode())
        digest.update("\0".join(_asked(case.request, known)).encode())
        for probe in case.probes:
            for example in (probe.example, *probe.premises):
                digest.update("\0".join((probe.kind, *_asked(example, known))).encode())
    return {"count": len(cases), "hash": digest.hexdigest()}


def identity_of_pairs(pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """How many pairs there are, and a hash of their questions, answers and labels, and of their pictures' names."""
    digest = hashlib.blake2b(digest_size=8)
    for pair in pairs:
        told = (pair.id, pair.question, pair.chosen, pair.rejected, _joined(pair.pictures, _name))
        digest.update("\0".join((*told, str(pair.chosen_spans), str(pair.rejected_spans), "")).encode())
    return {"count": len(pairs), "hash": digest.hexdigest()}


Known = Callable[[Picture], str]


def _asked(example: Example, known: Known) -> tuple[str, ...]:
    return (example.question, example.answer or "", _joined(example.pictures, known), *example.aliases)


def _joined(pictures: Iterable[Picture], known: Known) -> str:
    return "/".join(map(known, pictures))


def _name(picture: Picture) -> str:
    return picture.name if isinstance(picture, Path) else ""


def _contents() -> Known:
    """By what is in pictures; each file is read once."""
    read = cache(_of_file)
    return lambda picture: read(picture) if isinstance(picture, Path) else content_hash(picture)


def _of_file(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
