"""`vlmend convert`: what cannot be used, or written to, is one line before the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_models.painting import save_chat


@pytest.fixture
def none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of which nothing is looked at."""
    monkeypatch.setattr("vlmend.models.convert.minigpt4.read_checkpoints", lambda files: pytest.fail("read"))
    file = tmp_path / "none.pth"
    file.touch()
    return file


@pytest.mark.parametrize(
    ("inside", "problem"),
    [
        (None, "words' is no folder, and a hub id is written OWNER/NAME"),
        ({}, "holds no language model of transformers"),
        ({"config.json": "half"}, "holds no language model of transformers"),
        ({"config.json": '{"model_type": "nothing"}'}, "holds no language model of transformers"),
        ({"config.json": '{"model_type": "clip"}'}, "is a clip, and MiniGPT-4's language model a Llama"),
    ],
)
def test_no_language_model(
    vlmend_cli: Callable[..., Any], none: Path, tmp_path: Path, inside: dict[str, str] | None, problem: str
) -> None:
    folder = tmp_path / "words"
    for name, text in (inside or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    if inside == {}:
        folder.mkdir()
    outcome = vlmend_cli("convert", "minigpt4", none, "--language", folder, "--out", tmp_path / "out")
    assert outcome.is_a_users_mistake(problem)
    assert not (tmp_path / "out").exists()


def test_files_are_looked_for_first(vlmend_cli: Callable[..., Any], none: Path, tmp_path: Path) -> None:
    given = ("convert", "minigpt4", none, "gone.pth", "--language", "vicuna", "--out", tmp_path / "out")
    assert vlmend_cli(*given).is_a_users_mistake("gone.pth is not there")


def test_another_language_model(vlmend_cli: Callable[..., Any], none: Path, tmp_path: Path) -> None:
    chat = save_chat(tmp_path / "chat")
    outcome = vlmend_cli("convert", "minigpt4", none, "--language", chat, "--out", tmp_path / "out")
    assert outcome.is_a_users_mistake("is a phi, and MiniGPT-4's language model a Llama")


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_place_that_is_taken(vlmend_cli: Callable[..., Any], none: Path, tmp_path: Path, is_folder: bool) -> None:
    taken = tmp_path / "out"
    mine = taken / "mine.txt" if is_folder else taken
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    outcome = vlmend_cli("convert", "minigpt4", none, "--language", "nowhere", "--out", taken)
    problem = "is there already, and no empty folder" if is_folder else "is a file; name a folder"
    assert outcome.is_a_users_mistake(problem)
    assert mine.read_text() == "mine"
