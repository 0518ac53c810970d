"""Files as lists of records: JSON, JSON lines and CSV, whatever their fields mean."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlmend.errors import DataError

__all__ = ["SEPARATOR", "Key", "Record", "as_key", "only_once", "read_object", "read_records", "read_text"]

T = TypeVar("T")

_NUMBER = re.compile(r"[0-9]{1,18}")

Key = int | str
"""What a record is known by: a number, or a text that is none."""

SEPARATOR = "|"
"""Between several values in one cell of a CSV file."""


@dataclass(frozen=True)
class Record:
    """One record as it stands in a file.

    ``line`` is where it starts, in files that have a record per line. ``cells``: its values are cells of a table, so
    that an empty one is absent and several values are written ``a | b``, or as a JSON list. ``inside`` names the field
    that a record within a record is the value of.
    """

    path: Path
    index: int
    fields: Mapping[str, Any]
    line: int | None = None
    cells: bool = False
    inside: str = ""

    def error(self, problem: str, field: str | None = None) -> DataError:
        """An error that names the file, this record and the field."""
        place = self.inside + (field or "")
        if self.line is not None:
            problem += f" (line {self.line})"
        return DataError(problem, path=self.path, record=self.index, field=place.rstrip(".") or None)

    def text(self, field: str, *, needed: bool = False) -> str:
        """A string; empty where there is none.

        Raises:
            DataError: it is something else, or it is ``needed`` and missing or empty.
        """
        if needed and field not in self.fields:
            raise self.error("is missing", field)
        value = self.fields.get(field, "")
        if not isinstance(value, str):
            raise self.error(f"a string was expected, not {_shown(value)}", field)
        if needed and not value:
            raise self.error("is empty", field)
        return value

    def key(self, field: str) -> Key:
        """An id that must be there; digits are a number, however they are written."""
        value = self.fields.get(field)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise self.error("is missing" if value is None else f"an id was expected, not {_shown(value)}", field)
        return as_key(value)

    def choice(self, field: str, options: Mapping[str, T]) -> T:
        """What the one of these words stands for that must be there."""
        word = self.text(field, needed=True)
        if word not in options:
            raise self.error(f"{' or '.join(map(repr, options))} was expected, not {_shown(word)}", field)
        return options[word]

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of strings, or one string that stands for such a list."""
        value = self.fields.get(field, "")
        if isinstance(value, str) and self.cells and value.startswith("["):
            value = self.value(field)
        elif isinstance(value, str):
            parts = [part.strip() for part in value.split(SEPARATOR)] if self.cells else [value]
            return tuple(part for part in parts if part)
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise self.error(f"a list of strings was expected, not {_shown(value)}", field)
        return tuple(value)

    def value(self, field: str) -> Any:
        """A value of any kind, ``None`` where there is none; a cell holds it as JSON."""
        value = self.fields.get(field)
        if not self.cells:
            return value
        try:
            return json.loads(value) if value else None
        except (ValueError, RecursionError) as error:
            raise self.error(f"is not JSON: {error}", field) from error

    def records(self, field: str) -> Iterator[Record]:
        """The records in a list within this one."""
        value = self.value(field)
        if value is not None and not isinstance(value, list):
            raise self.error(f"a list was expected, not {_shown(value)}", field)
        for index, one in enumerate(value or ()):
            yield self.record(f"{field}[{index}]", one)

    def record(self, field: str, value: Any) -> Record:
        """A record within this one: ``value``, which stands at ``field``."""
        if not isinstance(value, dict):
            raise self.error(f"an object was expected, not {_shown(value)}", field)
        return Record(self.path, self.index, value, self.line, inside=f"{self.inside}{field}.")


def as_key(value: Key) -> Key:
    """A number for digits, so that an id is the same as a value and as the name of a JSON field."""
    return int(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def only_once(records: Sequence[Record], keys: Sequence[Key], field: str = "id") -> None:
    """That no two records have one id.

    Raises:
        DataError: two have; names both.
    """
    first: dict[Key, int] = {}
    for record, key in zip(records, keys, strict=True):
        if first.setdefault(key, record.index) != record.index:
            raise record.error(f"{key!r} is also the id of record {first[key]}", field)


def read_records(path: Path, *, lines: bool = False) -> list[Record]:
    """The records of a file; its name says whether it is JSON lines, a table or (any other) one JSON list.

    Args:
        path: the file.
        lines: it is JSON lines, whatever its name says (POPE's are called ``.json``).

    Raises:
        DataError: the file cannot be read, is not what its name says, or holds something that is no record.
    """
    content = read_text(path)
    return list((_lines if lines else _READERS.get(path.suffix.lower(), _listed))(path, content))


def read_object(path: Path) -> dict[str, Any]:
    """A file that is one JSON object.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    found = _parsed(read_text(path), path)
    if not isinstance(found, dict):
        raise DataError(f"an object was expected, not {type(found).__name__}", path=path)
    return found


def read_text(path: Path) -> str:
    """What is in a text file, line ends as they are.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    except ValueError as error:
        raise DataError(f"is not UTF-8 text: {error}", path=path) from error


def _listed(path: Path, content: str) -> Iterator[Record]:
    found = _parsed(content, path)
    if not isinstance(found, list):
        raise DataError(f"a list of records was expected, not {type(found).__name__}", path=path)
    if found and not isinstance(found[0], dict):
        raise DataError(f"a list of at least one record was expected, not of {type(found[0]).__name__}", path=path)
    for index, fields in enumerate(found):
        yield _record(path, index, fields)


def _lines(path: Path, content: str) -> Iterator[Record]:
    # Not splitlines(): a JSON string may hold U+2028 and its like.
    numbered = ((number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip())
    for index, (number, line) in enumerate(numbered):
        yield _record(path, index, _parsed(line, path, number), number)


def _table(path: Path, content: str) -> Iterator[Record]:
    header = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        names = [name.strip() for name in next(rows, [])]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError("stands twice in the header", path=path, field=twice[0])
        index, line = 0, rows.line_num + 1
        for row in rows:
            if any(cell.strip() for cell in row):
                if len(row) != len(names):
                    problem = f"{len(row)} cells instead of the header's {len(names)} (line {line})"
                    raise DataError(problem, path=path, record=index)
                fields = {name: cell for name, cell in zip(names, row, strict=True) if name or cell}
                yield Record(path, index, fields, line, cells=True)
                index += 1
            line = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"line {rows.line_num} is not CSV: {error}", path=path) from error


_READERS: Mapping[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".csv": _table,
    ".tsv": _table,
}


def _record(path: Path, index: int, fields: Any, line: int | None = None) -> Record:
    if not isinstance(fields, dict):
        where = "" if line is None else f" (line {line})"
        raise DataError(f"an object was expected, not {type(fields).__name__}{where}", path=path, record=index)
    return Record(path, index, fields, line)


def _parsed(content: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        if line is None:
            raise DataError(f"is not JSON: {error}", path=path) from error
        raise DataError(f"line {line} is not JSON: {error.msg} (column {error.colno})", path=path) from error
    except (ValueError, RecursionError) as error:  # a number too long, lists too deep
        where = "" if line is None else f"line {line} "
        raise DataError(f"{where}is not JSON that can be read: {error}", path=path) from error


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 40 else f"{words[:40]}…"
