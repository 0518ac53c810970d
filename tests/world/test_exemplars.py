"""Exemplars: pictures with questions and right answers, drawn by a seed."""

from __future__ import annotations

import pytest

from vlmend.data.formats import read
from vlmend.errors import VlmendError
from vlmend.world.exemplars import draw, facts, write, write_facts


def test_drawn_by_seed():
    one, again, other = (list(draw(4, seed)) for seed in (3, 3, 4))
    assert [image.tobytes() for image, _, _ in one] == [image.tobytes() for image, _, _ in again]
    assert one[0][0].tobytes() != other[0][0].tobytes()
    asked = [[(example.question, example.answer) for example in examples] for _, examples, _ in one]
    assert asked == [[(example.question, example.answer) for example in examples] for _, examples, _ in again]
    assert all(answer for some in asked for _, answer in some)


def test_written_as_cases(tmp_path):
    cases = read(write(tmp_path, 3, 0))
    drawn = list(draw(3, 0))
    assert [case.request.answer for case in cases] == [one.answer for _, some, _ in drawn for one in some]
    assert len({case.id for case in cases}) == len(cases)
    assert {case.request.image for case in cases} == set((tmp_path / "images").iterdir())
    assert len({case.request.image for case in cases}) == 3


def test_a_second_picture_of_the_same(tmp_path):
    plain, twice = write(tmp_path / "one", 3, 0), write(tmp_path / "two", 3, 0, again=True)
    for first, case in zip(read(plain), read(twice), strict=True):
        assert (case.request.question, case.request.answer) == (first.request.question, first.request.answer)
        (probe,) = case.probes_of("image_generality")
        assert probe.example.question == case.request.question
        assert probe.example.image.read_bytes() != case.request.image.read_bytes()
        assert dict(case.notes)["shown"]


def test_facts_have_no_pictures_and_are_each_another_one(tmp_path):
    cases = read(write_facts(tmp_path, 300, 1))
    assert [case.request for case in cases] == facts(300, 1) != facts(300, 2)
    assert not any(case.request.pictures or not case.request.answer for case in cases)
    assert len({case.request.question for case in cases}) == 300
    with pytest.raises(VlmendError, match="facts, not 9999: ask for fewer"):
        write_facts(tmp_path / "more", 9999, 1)
    assert not (tmp_path / "more").exists()
