"""Pictures with right answers as conversations: the same ones for a seed, and true."""

from __future__ import annotations

import pytest

import vlmend
from vlmend.data.formats import conversations, recognise
from vlmend.errors import UnknownNameError
from vlmend.world.captions import mentions
from vlmend.world.positives import KINDS, write


def test_the_same_for_a_seed(tmp_path):
    first, second, other = (write(tmp_path / name, 4, 7, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    assert [one.read_bytes() for one in sorted((tmp_path / "a/images").iterdir())] == [
        one.read_bytes() for one in sorted((tmp_path / "b/images").iterdir())
    ]


def test_descriptions_and_questions(tmp_path):
    path = write(tmp_path, 4, 7, 1)
    assert recognise(path) is conversations
    cases = vlmend.read(path)
    assert len(cases) == 11
    assert [one.notes[0][1].strip('"') for one in cases] == ["short_caption"] * 4 + [
        KINDS[number % len(KINDS)] for number in range(4, 11)
    ]
    assert all(one.request.answer and one.request.pictures for one in cases)
    assert all(mentions(one.request.answer) for one in cases[:4])
    with pytest.raises(UnknownNameError, match="form of description"):
        write(tmp_path / "x", 1, 1, 0, "long")


def test_kinds_of_question_are_those_that_are_named(tmp_path):
    read = vlmend.read(write(tmp_path, 0, 4, seed=1, kinds=("howmany", "colour")))
    assert [dict(case.notes)["kind"] for case in read] == ['"howmany"', '"colour"'] * 2
    with pytest.raises(UnknownNameError, match="kind of question"):
        write(tmp_path, 0, 4, seed=1, kinds=("colours",))
