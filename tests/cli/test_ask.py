"""`vlmend ask`: the answer of the model itself, and one clear line for every mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmend.report.words import printable


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


def test_answer_is_the_models(
    vlmend_cli: Callable[..., Any], tiny: Callable[..., Any], tiny_folder: Callable[..., Path], photo: Path
) -> None:
    question = "what colour is the cup ?"
    expected = tiny().answer(photo, question, max_new_tokens=5)
    outcome = vlmend_cli("ask", tiny_folder(), photo, question, "--max-new-tokens", 5)
    assert outcome.code == 0
    assert outcome.stdout == printable(expected) + "\n"
    document = vlmend_cli("ask", tiny_folder(), photo, question, "--max-new-tokens", 5, "--json").document
    assert document["answer"] == expected
    assert document["question"] == question


def test_missing_picture(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    outcome = vlmend_cli("ask", tiny_folder(), tmp_path / "absent.png", "what is this ?")
    assert outcome.is_a_users_mistake("absent.png", "no such file")


def test_truncated_picture(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], photo: Path) -> None:
    photo.write_bytes(photo.read_bytes()[:200])
    outcome = vlmend_cli("ask", tiny_folder(), photo, "what is this ?", "--json")
    assert outcome.is_a_users_mistake("picture.png")


def test_no_picture_at_all(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    outcome = vlmend_cli("ask", tiny_folder(), tmp_path / "notes.txt", "what is this ?")
    assert outcome.is_a_users_mistake("notes.txt")


def test_missing_model(vlmend_cli: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    outcome = vlmend_cli("ask", tmp_path / "no-model", photo, "what is this ?")
    assert outcome.is_a_users_mistake("no-model")


def test_folder_without_model(vlmend_cli: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    outcome = vlmend_cli("ask", tmp_path, photo, "what is this ?")
    assert outcome.is_a_users_mistake(str(tmp_path), "config.json")


def test_empty_question(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], photo: Path) -> None:
    assert vlmend_cli("ask", tiny_folder(), photo, "").is_a_users_mistake("question")
