"""What all formats do alike: records become cases, pictures are looked for, cases become records again."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vlmend.data.formats.files import Record, only_once, read_records
from vlmend.data.pictures import case_files, picture_count, picture_files
from vlmend.data.records import EditCase, Example
from vlmend.errors import DataError, MissingImageError

__all__ = ["Reader", "Refuse", "matching", "picture_name", "picture_names", "read_cases", "refusal"]

Refuse = Callable[[str], DataError]
"""Makes the error that says why a case cannot be written."""

Read = TypeVar("Read", covariant=True)
Form = TypeVar("Form", bound="Reader[Any]")


class Reader(Protocol[Read]):
    """What each format's module has."""

    NAME: str

    def matches(self, records: Sequence[Record]) -> bool:
        """Whether a file with these records (at least one) is of this format."""
        ...

    def read(
        self,
        path: Path | str,
        images: Path | str | None = None,
        *,
        skip_missing: bool = False,
        check_images: bool = True,
    ) -> Read:
        """What is in a file."""
        ...


def matching(forms: Sequence[Form], records: Sequence[Record], path: Path, unknown: str) -> Form:
    """The first format that a file's records are of.

    Raises:
        DataError: there is no record, or its fields are of none: ``unknown`` ends the sentence that says so.
    """
    if not records:
        raise DataError("holds no records", path=path)
    for form in forms:
        if form.matches(records):
            return form
    fields = ", ".join(map(str, records[0].fields))
    raise DataError(f"its fields ({fields}) are {unknown}", path=path, record=0)


def read_cases(
    path: Path | str,
    images: Path | str | None,
    case: Callable[[Record, Path], EditCase],
    *,
    skip_missing: bool = False,
    check_images: bool = True,
) -> list[EditCase]:
    """Read one file.

    Args:
        path: the file.
        images: the folder that image paths are relative to; the file's own by default.
        case: makes a case of a record, given that folder.
        skip_missing: leave out cases that need a picture which is not there, instead of raising.
        check_images: whether to look for the pictures at all.

    Raises:
        DataError: the file cannot be read, a record is not as it should be, or two cases have one id.
        MissingImageError: pictures are missing; lists them.
    """
    path = Path(path)
    root = path.parent if images is None else Path(images)
    records = read_records(path)
    cases = [case(record, root) for record in records]
    only_once(records, [made.id for made in cases])
    if not check_images:
        return cases
    missing = [(index, file) for index, made in enumerate(cases) for file in case_files(made) if not file.is_file()]
    if missing and not skip_missing:
        raise MissingImageError(missing, path=path)
    absent = {index for index, _ in missing}
    return [made for index, made in enumerate(cases) if index not in absent]


def refusal(case: EditCase, index: int, path: Path, name: str) -> Refuse:
    """What makes the errors about one case that a format called ``name`` has no place for."""
    return lambda problem: DataError(
        f"case '{case.id}' cannot be written as {name}: {problem}", path=path, record=index
    )


def picture_names(example: Example, path: Path, refuse: Refuse) -> list[str]:
    """An example's pictures as a file at ``path`` names them: relative to its folder."""
    files = picture_files(example)
    if len(files) != picture_count(example):
        raise refuse("a picture must be a file")
    return [Path(os.path.relpath(file, path.parent)).as_posix() for file in files]


def picture_name(example: Example, path: Path, refuse: Refuse) -> str:
    """The name of an example's picture where it must have just one."""
    names = picture_names(example, path, refuse)
    if len(names) != 1:
        raise refuse("a picture must be a file, and just one")
    return names[0]
