from __future__ import annotations

import pytest

from vlmend.evaluation.text import matches


@pytest.mark.parametrize(
    ("said", "accepted", "right"),
    [
        ("The Red cup.", ["red cup"], True),
        ("red  cup", ["a red cup!"], True),
        ("red", ["red cup"], False),
        ("not red", ["red"], False),
        ("crimson", ["red", "crimson"], True),
        ("the", ["a"], False),
        ("a", ["a"], True),
        ("", ["red"], False),
        ("red", [], False),
    ],
)
def test_matches(said, accepted, right):
    assert matches(said, accepted) is right
