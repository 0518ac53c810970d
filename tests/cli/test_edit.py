"""`vlmend edit`: edits on disk that do what the command said they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

STRONG = ("--set", "lr=0.02", "--set", "steps=25", "--set", "layers=all", "--max-new-tokens", 6)


def test_one_saved_edit_per_case(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    outcome = vlmend_cli("edit", tiny_folder(), cases_file, "--out", tmp_path / "fixes", *STRONG, "--json")
    assert outcome.code == 0, outcome.stderr
    edits = outcome.document["edits"]
    assert [one["case"] for one in edits] == ["evqa-0", "evqa-1", "evqa-2"]
    assert len({one["edit"] for one in edits}) == 3
    for one in edits:
        assert one["after"] != one["before"]
        assert one["holds"] == (one["after"] == one["target"])
        assert {path.name for path in Path(one["folder"]).iterdir()} == {"edit.json", "edit.safetensors"}


def test_an_edit_that_does_not_hold_is_said_to(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    given = ("edit", tiny_folder(), cases_file, "--out", tmp_path / "fixes", "--limit", 2)
    weak = vlmend_cli(*given, "--set", "steps=1", "--set", "lr=1e-6")
    assert weak.code == 0
    assert "2 of 2 do not hold" in weak.stdout and "NO" in weak.stdout and "Replaced" not in weak.stdout
    strong = vlmend_cli(*given, *STRONG)
    assert "do not hold" not in strong.stdout and "yes" in strong.stdout
    assert "Replaced what was there: 2 edits." in strong.stdout


def test_a_saved_edit_answers_as_the_command_said(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    made = vlmend_cli("edit", tiny_folder(), cases_file, "--out", tmp_path / "fixes", *STRONG, "--limit", 1, "--json")
    one = made.document["edits"][0]
    question = (
        "ask",
        tiny_folder(),
        cases_file.parent / "case-0.png",
        one["question"],
        "--max-new-tokens",
        6,
        "--json",
    )
    assert vlmend_cli(*question).document["answer"] == one["before"]
    mended = vlmend_cli(*question, "--edit", one["folder"]).document
    assert mended["answer"] == one["after"]
    assert mended["edits"] == [one["edit"]]


def test_one_edit_for_all(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    from vlmend import Edit

    out = tmp_path / "all"
    outcome = vlmend_cli("edit", tiny_folder(), cases_file, "--out", out, "--together", "--set", "steps=2", "--json")
    assert len({one["edit"] for one in outcome.document["edits"]}) == 1
    assert len(Edit.load(out).requests) == 3


def test_edit_of_another_model(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fix"
    vlmend_cli("edit", tiny_folder(), cases_file, "--out", out, "--together", "--set", "steps=1")
    picture = cases_file.parent / "case-0.png"
    outcome = vlmend_cli("ask", tiny_folder("llava", 1), picture, "what is this ?", "--edit", out)
    assert outcome.is_a_users_mistake("fingerprint")


def test_no_edit_there(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path) -> None:
    picture = cases_file.parent / "case-0.png"
    outcome = vlmend_cli("ask", tiny_folder(), picture, "what is this ?", "--edit", cases_file.parent)
    assert outcome.is_a_users_mistake("edit.json")


def test_unknown_editor(vlmend_cli: Callable[..., Any], cases_file: Path, tmp_path: Path) -> None:
    outcome = vlmend_cli("edit", "demo", cases_file, "--out", tmp_path / "fixes", "--editor", "rome")
    assert outcome.is_a_users_mistake("no editor named 'rome'")
