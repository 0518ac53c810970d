"""What tells data from other data: words and the contents of picture files, not where these lie."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vlmend.data.identity import identity, identity_of_pairs
from vlmend.data.pictures import relocated
from vlmend.data.records import EditCase, Example, PreferencePair, Probe


@pytest.fixture
def case(picture: Callable[[int], Image.Image], tmp_path: Path) -> EditCase:
    folder = tmp_path / "here"
    folder.mkdir()
    for number in (1, 2):
        picture(number).save(folder / f"{number}.png")
    asked = Example("what is this ?", folder / "1.png", "a dog")
    return EditCase("one", asked, probes=(Probe("image_generality", Example("and this ?", folder / "2.png", "a dog")),))


def test_moved_cases_are_the_same(case: EditCase, tmp_path: Path) -> None:
    before = identity([case])
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert identity([relocated(case, lambda file: tmp_path / "there" / file.name)]) == before


@pytest.mark.parametrize("name", ["1.png", "2.png"])
def test_another_picture_under_the_old_name_is_other_data(
    case: EditCase, picture: Callable[[int], Image.Image], tmp_path: Path, name: str
) -> None:
    before, by_name = identity([case]), identity([case], opened=False)
    picture(3).save(tmp_path / "here" / name)
    assert identity([case]) != before
    assert identity([case], opened=False) == by_name
    (tmp_path / "here" / name).unlink()
    assert identity([case], opened=False) == by_name  # what need not be there


def test_pictures_in_memory_count_by_their_pixels(picture: Callable[[int], Image.Image]) -> None:
    one, same, other = (identity([EditCase("one", Example("what is this ?", picture(n), "a dog"))]) for n in (1, 1, 2))
    assert one == same != other


def test_pictures_of_pairs_count_by_name(tmp_path: Path) -> None:
    def pair(place: str) -> PreferencePair:
        return PreferencePair("one", "what is this ?", "a dog", "a cat", tmp_path / place)

    assert identity_of_pairs([pair("a/1.png")]) == identity_of_pairs([pair("b/1.png")])
    assert identity_of_pairs([pair("a/1.png")]) != identity_of_pairs([pair("a/2.png")])
