"""The picture files that examples and cases name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from vlmend.data.records import EditCase, Example
from vlmend.errors import DataError, PromptError
from vlmend.models.pictures import open_picture

__all__ = ["case_files", "check_pictures", "examples_of", "picture_count", "picture_files", "relocated", "shown"]


def picture_files(example: Example) -> tuple[Path, ...]:
    """The files of an example's pictures, in their order; pictures in memory have none."""
    return tuple(picture for picture in _pictures(example) if isinstance(picture, Path))


def picture_count(example: Example) -> int:
    """How many pictures an example has, in files or in memory."""
    return sum(picture is not None for picture in _pictures(example))


def examples_of(case: EditCase) -> Iterator[Example]:
    """Everything a case asks: the request, its probes and what they rest on."""
    yield case.request
    for probe in case.probes:
        yield probe.example
        yield from probe.premises


def case_files(case: EditCase) -> tuple[Path, ...]:
    """The files of all pictures of a case, each once, in their order."""
    return tuple(dict.fromkeys(file for example in examples_of(case) for file in picture_files(example)))


def check_pictures(cases: Sequence[EditCase], path: Path) -> None:
    """Open the pictures of all cases, each file once.

    Raises:
        DataError: one cannot be read; names it, its case, and ``path``, the file that the cases are from.
    """
    first = {file: case for case in reversed(cases) for file in case_files(case)}
    for file, case in reversed(first.items()):
        try:
            open_picture(file)
        except PromptError as error:
            raise DataError(f"case '{case.id}': {error}", path=path) from error


def shown(cases: Iterable[EditCase], most: int | None = None) -> tuple[list[EditCase], list[str]]:
    """The first so many cases whose pictures can all be opened, each file once, and the ids of the others before."""
    opens, kept, without = cache(_opens), list[EditCase](), list[str]()
    for case in cases:
        if len(kept) == most:
            break
        if all(map(opens, case_files(case))):
            kept.append(case)
        else:
            without.append(case.id)
    return kept, without


def _opens(file: Path) -> bool:
    try:
        open_picture(file)
    except PromptError:
        return False
    return True


def relocated(case: EditCase, place: Callable[[Path], Path]) -> EditCase:
    """The same case with every picture file named as ``place`` says."""

    def moved(example: Example) -> Example:
        given: Any = example.image
        if isinstance(given, tuple):
            return replace(example, image=tuple(place(one) if isinstance(one, Path) else one for one in given))
        return replace(example, image=place(given)) if isinstance(given, Path) else example

    probes = (
        replace(probe, example=moved(probe.example), premises=tuple(map(moved, probe.premises)))
        for probe in case.probes
    )
    return replace(case, request=moved(case.request), probes=tuple(probes))


def _pictures(example: Example) -> tuple[Any, ...]:
    given: Any = example.image
    return given if isinstance(given, tuple) else (given,)
