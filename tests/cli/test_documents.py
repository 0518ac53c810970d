"""README and documentation tell the truth: commands and options exist, links lead somewhere, what is shown runs."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)
SUMMARY = {"reliability", "text_generality", "image_generality", "text_locality", "image_locality"}

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_SHOWN = re.compile(r"print\(.*\)\s+# -> (.*)$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block; one with a title is a file."""

    language: str
    title: str | None
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Its lines that run `vlmend`, each as words."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "sh" else []
        return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vlmend ")]


def blocks(document: Path) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall(document.read_text(encoding="utf-8"))]


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def shown() -> Iterator[Any]:
    for document in DOCUMENTS:
        for command in (command for block in blocks(document) for command in block.commands):
            yield pytest.param(command, id=f"{name(document)}: {' '.join(command)}")


def test_there_are_commands_to_check() -> None:
    assert {command[0] for block in blocks(ROOT / "README.md") for command in block.commands} >= {
        "ask",
        "edit",
        "bench",
        "doctor",
    }


@pytest.mark.parametrize("command", list(shown()))
def test_commands_and_options_exist(vlmend_cli: Callable[..., Any], command: list[str]) -> None:
    group = command[:2] if command[0] in ("data", "edits", "world") else command[:1]
    outcome = vlmend_cli(*group, "--help")
    assert outcome.code == 0
    for word in command:
        if word.startswith("--"):
            assert word in outcome.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_make_targets_exist(document: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    text = document.read_text(encoding="utf-8")
    lines = "\n".join(block.text for block in blocks(document) if block.language == "sh")
    for target in re.findall(r"^make ([\w-]+)", lines, flags=re.MULTILINE) + re.findall(r"`make ([\w-]+)`", text):
        assert target in targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_inside_the_repository_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_tests_that_are_named_exist(document: Path) -> None:
    for file, test in _TEST.findall(document.read_text(encoding="utf-8")):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


def test_every_defect_has_a_test_or_a_reason() -> None:
    tested, reasoned = (ROOT / "docs" / "defects.md").read_text(encoding="utf-8").split("## What does not arise")
    rows = re.findall(r"^\| [A-Z].*$", tested, flags=re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if len(_TEST.findall(row)) != 1] == []
    assert _TEST.findall(reasoned) == []


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]


def test_python_of_the_readme_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    (snippet,) = (block.text for block in blocks(ROOT / "README.md") if block.language == "python")
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert set(names["proof"].summary) == SUMMARY
    assert {path.name for path in (tmp_path / "fixes" / "first").iterdir()} == {"edit.json", "edit.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vlmend_cli: Callable[..., Any]
) -> None:
    """Files are written, Python is run and prints what is said, commands succeed, in the order of the page."""
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(block.text, names)
            assert printed.getvalue().splitlines() == _SHOWN.findall(block.text)
        for command in block.commands:
            outcome = vlmend_cli(*command)
            assert outcome.code == 0, f"{command}: {outcome.stderr}"
