"""What is expected beside what pictures show, by other pictures' good answers."""

from __future__ import annotations

from pathlib import Path

from vlmend import EditCase, Example
from vlmend.alignment.checkable import Checkable
from vlmend.evaluation.hallucination.expecting import expecting

NAMED = Checkable({"object": dict.fromkeys(("bed", "pillow", "lamp", "cat"), ())}).objects
WITH, WITHOUT, LONE = "a bed and a pillow", "a bed and a cat", "a bed and a lamp"


def of(folder: Path, picture, *answers: str) -> list[EditCase]:
    """A picture of its own for each answer."""
    for number, _ in enumerate(answers):
        picture(number).save(folder / f"{number}.png")
    return [EditCase(f"c{n}", Example("what is there", folder / f"{n}.png", said)) for n, said in enumerate(answers)]


def test_what_more_than_half_of_the_others_show_is_expected(llava, picture, tmp_path) -> None:
    found = expecting(llava, of(tmp_path, picture, *[WITH] * 5, WITHOUT), NAMED, 9, 0)
    assert [(one.id, sorted(one.present), sorted(one.expected)) for one in found] == [
        ("c5", ["bed", "cat"], ["pillow"])
    ]
    assert found[0].example.answer is None and found[0].example.question == "what is there"
    half = expecting(llava, of(tmp_path, picture, *[WITH] * 3, *[WITHOUT] * 3, LONE), NAMED, 9, 0)
    assert half == []  # 3 of 6 others
    few = expecting(llava, of(tmp_path, picture, *[WITH] * 4, WITHOUT), NAMED, 9, 0)
    assert few == []  # 4 others


def test_all_answers_to_a_picture_say_what_it_shows(llava, picture, tmp_path) -> None:
    cases = of(tmp_path, picture, *[WITH] * 5, WITHOUT, LONE)
    asked = EditCase("q", Example("is there a pillow", cases[5].request.image, "yes, a pillow"))
    assert [one.id for one in expecting(llava, [*cases, asked], NAMED, 9, 0)] == ["c6"]


def test_what_cannot_be_asked_is_left_out_and_the_draw_is_seeded(llava, picture, tmp_path) -> None:
    cases = of(tmp_path, picture, *[WITH] * 30, *[WITHOUT] * 9)
    (tmp_path / "30.png").write_bytes(b"no picture")
    everything = expecting(llava, cases, NAMED, 99, 0)
    assert {one.id for one in everything} == {f"c{n}" for n in range(31, 39)}
    drawn = [[one.id for one in expecting(llava, cases, NAMED, 3, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 3
