"""Exemplars: pictures with questions and right answers, drawn by a seed."""

from __future__ import annotations

from vlmend.data.formats import read
from vlmend.world.exemplars import draw, write


def test_drawn_by_seed():
    one, again, other = (list(draw(4, seed)) for seed in (3, 3, 4))
    assert [image.tobytes() for image, _ in one] == [image.tobytes() for image, _ in again]
    assert one[0][0].tobytes() != other[0][0].tobytes()
    asked = [[(example.question, example.answer) for example in examples] for _, examples in one]
    assert asked == [[(example.question, example.answer) for example in examples] for _, examples in again]
    assert all(answer for some in asked for _, answer in some)


def test_written_as_cases(tmp_path):
    cases = read(write(tmp_path, 3, 0))
    drawn = list(draw(3, 0))
    assert [case.request.answer for case in cases] == [one.answer for _, some in drawn for one in some]
    assert len({case.id for case in cases}) == len(cases)
    assert {case.request.image for case in cases} == set((tmp_path / "images").iterdir())
    assert len({case.request.image for case in cases}) == 3
