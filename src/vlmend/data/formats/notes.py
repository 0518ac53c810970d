"""Notes: what a file says beside what this package understands, kept as (field, JSON text) and written back."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

__all__ = ["Notes", "notes_of", "values_of"]

Notes = tuple[tuple[str, str], ...]


def notes_of(fields: Mapping[str, Any], known: Collection[str] = (), prefix: str = "") -> Notes:
    """The fields that are not ``known``, their names after ``prefix``."""
    rest = ((name, value) for name, value in fields.items() if name not in known)
    return tuple((prefix + name, json.dumps(value, ensure_ascii=False)) for name, value in rest)


def values_of(notes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The fields that notes were made of."""
    return {name: json.loads(text) for name, text in notes}
