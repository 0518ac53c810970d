"""mDPO's files (arXiv 2406.11839, ``data/`` of its code): ``img_path``, ``prompt``, ``chosen``, ``rejected``.

The prompt is the whole text that LLaVA reads; the question is taken out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlmend.data.formats.files import Record
from vlmend.data.formats.notes import notes_of
from vlmend.data.formats.pairing import EMPTY, Preferences, as_pictures, pairs_of, unwrapped
from vlmend.data.records import PreferencePair, SkippedPair

__all__ = ["KNOWN", "NAME", "NEEDED", "matches", "read"]

NAME: str = "mDPO"

NEEDED: tuple[str, ...] = ("img_path", "prompt", "chosen", "rejected")
"""The fields that a file is known by."""

KNOWN: tuple[str, ...] = ("id", "img_path", "prompt", "chosen", "rejected")
EQUAL = "two equal answers"


def matches(records: Sequence[Record]) -> bool:
    """Whether a file with these records is of this format."""
    return {*NEEDED} <= {*records[0].fields}


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> Preferences:
    """Read one file; arguments and errors as in ``pairing.pairs_of``."""
    return pairs_of(Path(path), images, _pairs, skip_missing=skip_missing, check_images=check_images)


def _pairs(record: Record, root: Path) -> Iterator[PreferencePair | SkippedPair]:
    given = str(record.fields.get("id", f"{record.path.stem}-{record.index}"))
    question = record.text("prompt", needed=True).strip()
    chosen, rejected = (record.text(name, needed=name not in record.fields).strip() for name in ("chosen", "rejected"))
    if not chosen or not rejected:
        yield SkippedPair(given, EMPTY)
        return
    if chosen == rejected:
        yield SkippedPair(given, EQUAL)
        return
    image = record.text("img_path")
    yield PreferencePair(
        id=given,
        question=unwrapped(question),
        chosen=chosen,
        rejected=rejected,
        image=as_pictures([root / image] if image else []),
        origin=NAME,
        notes=notes_of(record.fields, KNOWN),
    )
