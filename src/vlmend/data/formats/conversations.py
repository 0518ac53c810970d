"""Conversations as LLaVA-Instruct and ShareGPT4V publish them: questions about a picture with right answers.

| field | meaning |
|---|---|
| ``id``, ``image`` | a name, which files repeat, and the picture's file; some records have no picture |
| ``conversations`` | turns ``from`` (``human``, ``gpt``) and ``value``; ``<image>`` where the picture stands |

Every question with its answer becomes a case of its own, without what was said before it. An answer may be empty here:
what uses the cases says so of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmend.data.formats.files import Record, read_records
from vlmend.data.formats.notes import notes_of, values_of
from vlmend.data.formats.reading import picture_names, refusal
from vlmend.data.formats.saving import write_records
from vlmend.data.records import EditCase, Example
from vlmend.errors import DataError, MissingImageError
from vlmend.models.prompts import MARKER

__all__ = ["NAME", "matches", "read", "write"]

NAME: str = "conversations"

_KNOWN = ("id", "image", "conversations")
_ASKS, _ANSWERS, _SAYS = ("human", "user"), ("gpt", "assistant"), ("system",)


def matches(records: Sequence[Record]) -> bool:
    """Whether a file with these records is of this format."""
    return "conversations" in records[0].fields


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> list[EditCase]:
    """Read one file; arguments and errors as in ``reading.read_cases``."""
    path = Path(path)
    root = path.parent if images is None else Path(images)
    cases: list[EditCase] = []
    missing: list[tuple[int, Path]] = []
    ids: set[str] = set()
    for record in read_records(path):
        name = str(record.fields.get("id", "") or f"{path.stem}-{record.index}")
        name = name if name not in ids else f"{name}#{record.index}"
        ids.add(name)
        file = root / record.text("image") if record.text("image") else None
        if check_images and file is not None and not file.is_file():
            missing.append((record.index, file))
            continue
        notes = notes_of(record.fields, _KNOWN)
        cases += [
            EditCase(name if number == 0 else f"{name}.{number}", example, source=path.name, notes=notes)
            for number, example in enumerate(_examples(record, file))
        ]
    if missing and not skip_missing:
        raise MissingImageError(missing, path=path)
    return cases


def write(cases: Sequence[EditCase], path: Path | str) -> None:
    """Write cases as ``read`` reads them, a conversation of one turn each.

    Raises:
        DataError: a case has probes, aliases, no answer, several pictures, or one that is no file.
    """
    path = Path(path)
    write_records(path, [_record(case, index, path) for index, case in enumerate(cases)], ())


def _examples(record: Record, image: Path | None) -> Iterator[Example]:
    turns = [one for one in record.records("conversations") if one.text("from", needed=True) not in _SAYS]
    if not turns:
        raise record.error("is empty", "conversations")
    for place in range(0, len(turns), 2):
        asked, *rest = turns[place : place + 2]
        if asked.text("from") not in _ASKS:
            raise asked.error(f"{' or '.join(_ASKS)} was expected, not {asked.text('from')!r}", "from")
        if rest and rest[0].text("from") not in _ANSWERS:
            raise rest[0].error(f"{' or '.join(_ANSWERS)} was expected, not {rest[0].text('from')!r}", "from")
        question = asked.text("value").strip()
        bare = question.replace(MARKER, "").strip()
        if not bare:
            raise asked.error("is empty", "value")
        # at an end of the question the marker only says that there is a picture
        inside = MARKER in question.removeprefix(MARKER).removesuffix(MARKER)
        yield Example(question if inside else bare, image, rest[0].text("value").strip() if rest else "")


def _record(case: EditCase, index: int, path: Path) -> dict[str, Any]:
    refuse = refusal(case, index, path, NAME)
    if case.probes or case.request.aliases:
        raise refuse("it has no place for probes and aliases")
    if case.request.answer is None:
        raise refuse("it has no answer")
    names = picture_names(case.request, path, refuse)
    if len(names) > 1:
        raise refuse("it has several pictures")
    if reserved := [name for name in values_of(case.notes) if name in _KNOWN]:
        raise DataError(f"a note is called '{reserved[0]}'", path=path, record=index)
    question = case.request.question
    if names and MARKER not in question:
        question = f"{MARKER}\n{question}"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": case.request.answer}]
    made: dict[str, Any] = {"id": case.id}
    made |= {"image": names[0]} if names else {}
    return made | {"conversations": turns} | values_of(case.notes)
