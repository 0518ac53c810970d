"""File formats of edit cases: one small file per published format, into records and back."""

from __future__ import annotations

from pathlib import Path

from vlmend.data.formats import mmedit
from vlmend.data.formats.files import json_records
from vlmend.data.records import EditCase
from vlmend.errors import DataError

__all__ = ["mmedit", "read"]

_FORMATS = (mmedit,)


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
        DataError: the file cannot be read or its format is not known.
        MissingImageError: pictures are missing.
    """
    path = Path(path)
    records = json_records(path)
    first = records[0] if records else None
    if not isinstance(first, dict):
        raise DataError("a list of at least one record was expected", path=path)
    for form in _FORMATS:
        if form.matches(first):
            return form.read(path, images, skip_missing=skip_missing, check_images=check_images)
    raise DataError(f"its fields ({', '.join(map(str, first))}) are of no known format", path=path, record=0)
