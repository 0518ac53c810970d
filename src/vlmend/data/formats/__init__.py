"""File formats of edit cases: one small file per format, into records and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vlmend.data.formats import conversations, mmedit, plain, vlkeb
from vlmend.data.formats.files import read_records
from vlmend.data.formats.reading import Reader, matching
from vlmend.data.records import EditCase

__all__ = ["Format", "conversations", "mmedit", "plain", "read", "recognise", "vlkeb"]


class Format(Reader[list[EditCase]], Protocol):
    """A format of cases: it reads them, and writes them so that ``read`` gives them back."""

    def write(self, cases: Sequence[EditCase], path: Path | str) -> None:
        """Write cases so that ``read`` gives them back."""
        ...


_FORMATS: tuple[Format, ...] = (vlkeb, mmedit, conversations, plain)


def recognise(path: Path | str) -> Format:
    """The first format that a file's records are of.

    Raises:
        DataError: the file cannot be read, has no record, or its fields are of no known format.
    """
    path = Path(path)
    return matching(_FORMATS, read_records(path), path, "of no known format")


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> list[EditCase]:
    """Read edit cases from a file, whichever of the known formats it is in.

    Args:
        path: the file.
        images: the folder that image paths are relative to; the file's own by default.
        skip_missing: leave out cases that need a picture which is not there, instead of raising.
        check_images: whether to look for the pictures at all.

    Raises:
        DataError: the file cannot be read, its format is not known, or a record is not as it should be.
        MissingImageError: pictures are missing.
    """
    return recognise(path).read(path, images, skip_missing=skip_missing, check_images=check_images)
