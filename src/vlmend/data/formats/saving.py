"""Records as files: JSON, JSON lines and CSV, as ``files.py`` reads them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmend.data.formats.files import SEPARATOR
from vlmend.errors import DataError
from vlmend.runs import whole

__all__ = ["is_table", "write_records"]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}

Records = Sequence[Mapping[str, Any]]


def is_table(path: Path) -> bool:
    """Whether a file of that name is a table, in which an empty cell and nothing are the same."""
    return path.suffix.lower() in _DELIMITERS


def write_records(path: Path, records: Records, fields: Sequence[str], lists: Collection[str] = ()) -> None:
    """Write a file whole or not at all, making its folder; its name says in what form.

    Args:
        fields: those that a table has columns for, in their order; only those used are written.
        lists: those of them that may hold several texts.

    Raises:
        DataError: a record has other fields, and the file is a table.
        WriteError: it cannot be written.
    """
    write = _WRITERS.get(path.suffix.lower(), _listed)
    content = _table(path, records, fields, lists) if is_table(path) else write(records)
    with whole(path) as part:
        part.write_text(content, encoding="utf-8", newline="")


def _listed(records: Records) -> str:
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"


def _lines(records: Records) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


_WRITERS: Mapping[str, Callable[[Records], str]] = {".jsonl": _lines, ".ndjson": _lines}


def _table(path: Path, records: Records, fields: Sequence[str], lists: Collection[str]) -> str:
    for index, record in enumerate(records):
        for field in record:
            if field not in fields:
                raise DataError("a table has no place for it", path=path, record=index, field=field)
    used = [field for field in fields if any(record.get(field) for record in records)]
    text = io.StringIO(newline="")
    rows = csv.writer(text, quoting=csv.QUOTE_ALL, delimiter=_DELIMITERS[path.suffix.lower()])
    rows.writerow(used)
    rows.writerows([_cell(record.get(field), field in lists) for field in used] for record in records)
    return text.getvalue()


def _cell(value: Any, is_list: bool) -> str:
    """A value as one cell: text as it is, several texts as JSON wherever ``a | b`` would not give them back."""
    if value is None or (isinstance(value, str) and not is_list):
        return value or ""
    if not is_list:
        return json.dumps(value, ensure_ascii=False)
    values: list[str] = [value] if isinstance(value, str) else value
    plain = all(one == one.strip() and SEPARATOR not in one and not one.startswith("[") for one in values)
    return f" {SEPARATOR} ".join(values) if plain else json.dumps(values, ensure_ascii=False)
