"""Files of preferences: better and worse answers to one question, in any of the known formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from vlmend.data.formats import bpo, mdpo, trl
from vlmend.data.formats.columns import is_columns
from vlmend.data.formats.files import Record
from vlmend.data.formats.pairing import Preferences, records_of
from vlmend.data.formats.reading import Reader, matching
from vlmend.data.records import PreferencePair, SkippedPair
from vlmend.errors import DataError

__all__ = [
    "SHARDS",
    "PairFormat",
    "Preferences",
    "format_of",
    "holds_pairs",
    "read_pairs",
    "read_preferences",
    "recognise",
]

SHARDS = "pairs-*"
"""The files of a folder of pairs; of those that are written as text and as columns, the text is read."""


class PairFormat(Reader[Preferences], Protocol):
    """A format of preferences: the fields that have a meaning in it, and those that a file of it is known by."""

    KNOWN: tuple[str, ...]
    NEEDED: tuple[str, ...]


_FORMATS: tuple[PairFormat, ...] = (bpo, mdpo, trl)


def recognise(path: Path | str) -> PairFormat:
    """The first format that a file's records are of.

    Raises:
        DataError: the file cannot be read, has no record, or its fields are of no known format.
    """
    path = Path(path)
    records = records_of(path)
    return matching(_FORMATS, records, path, f"those of no file of preferences{_likeliest(records)}")


def _likeliest(records: Sequence[Record]) -> str:
    """What a file lacks to be of the format that it is the nearest to."""
    given = {*records[0].fields} if records else set[str]()
    nearest = max(_FORMATS, key=lambda form: len(given.intersection(form.KNOWN)))
    if given.isdisjoint(nearest.NEEDED):
        return ""
    missing = " and ".join(f"'{name}'" for name in nearest.NEEDED if name not in given)
    return f": {nearest.NAME}'s, the likeliest, are {', '.join(nearest.NEEDED)}, and {missing} is missing"


def format_of(path: Path | str) -> str:
    """The name of a file's format, or of that of a folder's first shard.

    Raises:
        DataError: as of `recognise`.
    """
    path = Path(path)
    return recognise(path if is_columns(path) or not path.is_dir() else _shards(path)[0]).NAME


def holds_pairs(path: Path | str) -> bool:
    """Whether a file is one of preferences (and not, say, of edit cases); a folder of shards is.

    Raises:
        DataError: it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return is_columns(path) or bool(_shards(path))
    records = records_of(path)
    return bool(records) and any(form.matches(records) for form in _FORMATS)


def read_pairs(path: Path | str, images: Path | str | None = None) -> list[PreferencePair]:
    """The pairs of a file, or of a folder that `vlmend pairs` or datasets wrote, in whichever known format.

    Args:
        path: the file: BPO's JSON, mDPO's, or TRL's columns, as JSON, JSON lines, CSV, Parquet or Arrow.
        images: the folder that image paths are relative to; the file's own by default.

    Raises:
        DataError: it cannot be read, its format is not known, or a record is not as it should be.
        MissingImageError: pictures are missing.
    """
    return list(read_preferences(path, images).pairs)


def read_preferences(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> Preferences:
    """As `read_pairs`, with what was left out and why.

    Args:
        path, images: as of `read_pairs`.
        skip_missing: leave out pairs whose picture is not there, instead of raising.
        check_images: whether to look for the pictures at all.
    """
    path = Path(path)
    files = [path] if is_columns(path) or not path.is_dir() else _shards(path)
    if not files:
        raise DataError(f"the folder has no file {SHARDS}.jsonl, .json, .parquet or .arrow", path=path)
    found = [recognise(file).read(file, images, skip_missing=skip_missing, check_images=check_images) for file in files]
    return found[0] if len(found) == 1 else _joined(found)


def _shards(folder: Path) -> list[Path]:
    for ending in (".jsonl", ".json", ".parquet", ".arrow"):
        if found := sorted(folder.glob(SHARDS + ending)):
            return found
    return []


def _joined(found: Sequence[Preferences]) -> Preferences:
    """Several shards as one; an id that stands in two gets its shard's number behind it."""
    ids: set[str] = set()
    joined: list[PreferencePair | SkippedPair] = []
    for number, some in enumerate(found):
        joined += [replace(one, id=f"{one.id}@{number}") if one.id in ids else one for one in some.found]
        ids.update(one.id for one in some.found)
    return Preferences(tuple(joined))
