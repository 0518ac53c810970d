"""What all formats of preferences do alike: records become pairs, pictures are looked for, ids are told apart."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmend.data.formats.columns import is_columns, read_columns
from vlmend.data.formats.files import Record, read_records
from vlmend.data.records import PreferencePair, SkippedPair
from vlmend.errors import DataError, MissingImageError
from vlmend.models.pictures import Picture, Pictures

__all__ = ["EMPTY", "MISSING", "Preferences", "as_pictures", "pairs_of", "picture_name", "records_of", "unwrapped"]

MISSING = "a picture is missing"
EMPTY = "an empty answer"

_LLAVA = re.compile(r"\A(?:(?P<system>.*?)\s)?USER: (?P<question>.*?)\s*ASSISTANT:\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Preferences:
    """What is in a file of preferences.

    Attributes:
        found: its pairs, and between them what is left out, in their order.
    """

    found: tuple[PreferencePair | SkippedPair, ...]

    @property
    def pairs(self) -> tuple[PreferencePair, ...]:
        """Its pairs, in their order."""
        return tuple(one for one in self.found if isinstance(one, PreferencePair))

    @property
    def skipped(self) -> tuple[SkippedPair, ...]:
        """What is left out, by name."""
        return tuple(one for one in self.found if isinstance(one, SkippedPair))

    @property
    def left_out(self) -> Mapping[str, int]:
        """Why something is left out -> how often."""
        return dict(Counter(one.reason for one in self.skipped))

    def first(self, count: int | None) -> Preferences:
        """The first so many pairs, all by default, and what is left out before the last of them."""
        places = [at for at, one in enumerate(self.found) if isinstance(one, PreferencePair)]
        return self if count is None or count >= len(places) else Preferences(self.found[: places[count - 1] + 1])


def records_of(path: Path) -> list[Record]:
    """The records of a file: JSON, JSON lines, CSV, Parquet, Arrow, or a folder that datasets saved.

    Raises:
        DataError: it cannot be read.
    """
    return read_columns(path) if is_columns(path) else read_records(path)


def pairs_of(
    path: Path,
    images: Path | str | None,
    pairs: Callable[[Record, Path], Iterable[PreferencePair | SkippedPair]],
    *,
    skip_missing: bool = False,
    check_images: bool = True,
) -> Preferences:
    """Read one file.

    Args:
        path: the file.
        images: the folder that image paths are relative to; the file's own by default.
        pairs: makes the pairs of a record, given that folder, and says what it leaves out. An id that an earlier one
            has gets the record's number behind it: published files repeat them.
        skip_missing: leave out pairs whose picture is not there, instead of raising.
        check_images: whether to look for the pictures at all.

    Raises:
        DataError: the file cannot be read, or a record is not as it should be.
        MissingImageError: pictures are missing; lists them.
    """
    root = path.parent if images is None else Path(images)
    found: list[PreferencePair | SkippedPair] = []
    missing: list[tuple[int, Path]] = []
    ids: set[str] = set()
    for record in records_of(path):
        for one in pairs(record, root):
            if one.id in ids:
                one = replace(one, id=f"{one.id}#{record.index}")
            if check_images and isinstance(one, PreferencePair) and (absent := _absent(one)):
                missing += [(record.index, file) for file in absent]
                one = SkippedPair(one.id, MISSING)
            if one.id in ids and isinstance(one, PreferencePair):
                raise record.error(f"'{one.id}' is also the id of an earlier pair", "id")
            ids.add(one.id)
            found.append(one)
    if missing and not skip_missing:
        raise MissingImageError(missing, path=path)
    return Preferences(tuple(found))


def _absent(pair: PreferencePair) -> list[Path]:
    return [one for one in pair.pictures if isinstance(one, Path) and not one.is_file()]


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
