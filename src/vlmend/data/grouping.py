"""Cases grouped by what their file says of them."""

from __future__ import annotations

from collections.abc import Sequence

from vlmend.data.formats.notes import values_of
from vlmend.data.records import EditCase
from vlmend.errors import UnknownNameError

__all__ = ["grouped"]


def grouped(cases: Sequence[EditCase], field: str) -> dict[str, list[str]]:
    """Value of one of the notes -> ids of the cases that have it, in the order of the values' first cases; cases
    without the note are in no group.

    Raises:
        UnknownNameError: no case has such a note.
    """
    groups: dict[str, list[str]] = {}
    known: dict[str, None] = {}
    for case in cases:
        notes = values_of(case.notes)
        known |= dict.fromkeys(notes)
        if field in notes:
            groups.setdefault(str(notes[field]), []).append(case.id)
    if not groups:
        raise UnknownNameError("note of the cases", field, known)
    return groups
