"""Answers that differ in how they are written alone are the same."""

from __future__ import annotations

import pytest

from vlmend import EditCase, Example
from vlmend.build.answers import alike
from vlmend.build.errors import Asking
from vlmend.build.locality import tells


@pytest.mark.parametrize(
    ("said", "accepted", "same"),
    [
        ("six", "6", True),
        ("6", "Six.", True),
        ("none", "0", True),
        ("0", "zero", True),
        ("its red", "it's red", True),
        ("it\u2019s red", "its red", True),
        ("isnt", "isn't", True),
        ("1,000", "1000", True),
        ("the U.S.", "us", True),
        ("a cat!", "The cat", True),
        ("seven", "6", False),
        ("sixty", "six", False),
        ("1.5", "15", False),
        ("", "0", False),
    ],
)
def test_what_is_the_same(said: str, accepted: str, same: bool) -> None:
    assert alike(said, ("other", accepted)) is same
    right = Asking().right
    assert right(said, Example("how many ?", None, "other", (accepted,))) is same
    assert (right.again(said, accepted, Example("how many ?", None, "other")) is None) is same


def test_a_question_that_must_stay_is_not_answered_by_the_target_in_digits() -> None:
    case = EditCase("a", Example("how many ?", None, "six"), rejected="none")
    assert tells(case, Example("how many legs ?", None, "6"))
    assert tells(case, Example("how many arms ?", None, "0"))
    assert not tells(case, Example("how many eyes ?", None, "2"))
    assert not tells(EditCase("a", Example("how many ?", None, "six"), rejected=""), Example("what ?", None, " "))
