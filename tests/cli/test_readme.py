"""The README tells the truth: its commands and options exist, its links lead somewhere, its Python runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vlmend ")]


def test_there_are_commands_to_check() -> None:
    assert {command[0] for command in commands()} >= {"ask", "edit", "bench", "doctor"}


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_and_options_exist(vlmend_cli: Callable[..., Any], command: list[str]) -> None:
    outcome = vlmend_cli(command[0], "--help")
    assert outcome.code == 0
    for word in command:
        if word.startswith("--"):
            assert word in outcome.stdout


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for target in re.findall(r"^make ([\w-]+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert target in targets


def test_links_inside_the_repository_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_python_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python")
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert set(names["proof"].summary) == {
        "reliability",
        "text_generality",
        "image_generality",
        "text_locality",
        "image_locality",
    }
    assert {path.name for path in (tmp_path / "fixes" / "first").iterdir()} == {"edit.json", "edit.safetensors"}
