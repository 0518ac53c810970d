"""Cases grouped by what is noted of them."""

from __future__ import annotations

import pytest

from vlmend.data.grouping import grouped
from vlmend.data.records import EditCase, Example
from vlmend.errors import UnknownNameError


def case(name: str, **notes: str) -> EditCase:
    return EditCase(name, Example("what?", None, "this"), notes=tuple(notes.items()))


def test_values_are_groups_in_their_order_and_cases_without_the_note_are_in_none() -> None:
    cases = [case("a", level="2"), case("b"), case("c", level="1", kind='"count"'), case("d", level="2")]
    assert grouped(cases, "level") == {"2": ["a", "d"], "1": ["c"]}
    assert grouped(cases, "kind") == {"count": ["c"]}


def test_a_note_that_no_case_has_is_named() -> None:
    with pytest.raises(UnknownNameError, match="no note of the cases named 'error'; there are: level"):
        grouped([case("a", level="2")], "error")
    with pytest.raises(UnknownNameError, match="no note of the cases named 'error'; there are none"):
        grouped([case("a")], "error")
