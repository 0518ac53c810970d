"""What all formats of preferences do alike: records become pairs, pictures are looked for, ids are told apart."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmend.data.formats.columns import is_columns, read_columns
from vlmend.data.formats.files import Record, read_records
from vlmend.data.records import PreferencePair
from vlmend.errors import DataError, MissingImageError
from vlmend.models.pictures import Picture, Pictures

__all__ = ["Preferences", "as_pictures", "pairs_of", "picture_name", "records_of", "unwrapped"]

MISSING = "a picture is missing"

_LLAVA = re.compile(r"\A(?:(?P<system>.*?)\s)?USER: (?P<question>.*?)\s*ASSISTANT:\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Preferences:
    """What is in a file of preferences.

    Attributes:
        pairs: its pairs, in their order.
        left_out: why something is not among them -> how often.
    """

    pairs: tuple[PreferencePair, ...]
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])


def records_of(path: Path) -> list[Record]:
    """The records of a file: JSON, JSON lines, CSV, Parquet, Arrow, or a folder that datasets saved.

    Raises:
        DataError: it cannot be read.
    """
    return read_columns(path) if is_columns(path) else read_records(path)


def pairs_of(
    path: Path,
    images: Path | str | None,
    pairs: Callable[[Record, Path, Counter[str]], Iterable[PreferencePair]],
    *,
    skip_missing: bool = False,
    check_images: bool = True,
) -> Preferences:
    """Read one file.

    Args:
        path: the file.
        images: the folder that image paths are relative to; the file's own by default.
        pairs: makes the pairs of a record, given that folder, and counts what it leaves out. An id that an earlier
            pair has gets the record's number behind it: published files repeat them.
        skip_missing: leave out pairs whose picture is not there, and count them, instead of raising.
        check_images: whether to look for the pictures at all.

    Raises:
        DataError: the file cannot be read, or a record is not as it should be.
        MissingImageError: pictures are missing; lists them.
    """
    root = path.parent if images is None else Path(images)
    left_out: Counter[str] = Counter()
    made: list[PreferencePair] = []
    missing: list[tuple[int, Path]] = []
    ids: set[str] = set()
    for record in records_of(path):
        for pair in pairs(record, root, left_out):
            absent = [one for one in pair.pictures if isinstance(one, Path) and not one.is_file()]
            if check_images and absent:
                missing += [(record.index, file) for file in absent]
                left_out[MISSING] += 1
                continue
            if pair.id in ids:
                pair = replace(pair, id=f"{pair.id}#{record.index}")
            if pair.id in ids:
                raise record.error(f"'{pair.id}' is also the id of an earlier pair", "id")
            ids.add(pair.id)
            made.append(pair)
    if missing and not skip_missing:
        raise MissingImageError(missing, path=path)
    return Preferences(tuple(made), dict(left_out))


def as_pictures(found: Sequence[Picture]) -> Pictures:
    """Pictures as records hold them: none, one, or several."""
    return None if not found else found[0] if len(found) == 1 else tuple(found)


def picture_name(pair: PreferencePair, path: Path, refuse: Callable[[str], DataError]) -> list[str]:
    """A pair's pictures as a file at ``path`` names them: relative to its folder."""
    given: list[Any] = list(pair.pictures)
    if not all(isinstance(one, Path) for one in given):
        raise refuse("a picture must be a file")
    return [Path(os.path.relpath(one, path.parent)).as_posix() for one in given]


def unwrapped(prompt: str) -> str:
    """The question in a prompt as LLaVA's code writes it ("... USER: <image>\\n<question> ASSISTANT:"); any other text
    as it is. What a model needs around a question, its own chat template writes."""
    match = _LLAVA.match(prompt)
    return match["question"] if match and "ASSISTANT:" not in match["question"] else prompt
