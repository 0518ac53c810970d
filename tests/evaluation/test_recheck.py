"""Saved edits asked again: what they were made for, with all of its pictures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vlmend import EditCase, Example, editor
from vlmend.evaluation.recheck import recheck


@pytest.fixture
def files(picture, tmp_path):
    """Two pictures as files."""
    paths = tuple(tmp_path / f"{seed}.png" for seed in (1, 2))
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    return paths


def made_for(vlm, images, tmp_path):
    """An edit, saved and read back, for a question about these pictures."""
    case = EditCase("several", Example("which of them?", images, "no one"))
    edit = editor("ft", steps=30, lr=5e-3).fit(vlm, [case])
    return case, type(edit).load(edit.save(tmp_path / "fix"))


def test_all_pictures_are_shown_again(llava, files, tmp_path):
    case, edit = made_for(llava, files, tmp_path)
    assert edit.requests[0].images == tuple(map(str, files))
    (found,) = recheck(llava, edit)
    assert found.holds and found.problem is None
    (said,) = llava.generate(llava.prepare([case.request]), max_new_tokens=32)
    (without,) = llava.generate(llava.prepare([replace(case.request, image=files[0])]), max_new_tokens=32)
    assert found.before == said != without


def test_a_picture_that_is_gone_is_named(llava, files, tmp_path):
    _, edit = made_for(llava, files, tmp_path)
    files[1].unlink()
    (found,) = recheck(llava, edit)
    assert not found.holds and found.after is None
    assert found.problem == f"its picture is missing: {files[1]}"


def test_a_picture_that_was_never_a_file(llava, picture, tmp_path):
    _, edit = made_for(llava, picture(0), tmp_path)
    (found,) = recheck(llava, edit)
    assert not found.holds and found.problem == "its picture was never a file"


def test_a_question_without_a_picture(llava, tmp_path):
    _, edit = made_for(llava, None, tmp_path)
    assert recheck(llava, edit)[0].holds
