"""`vlmend world table`: rows into a table, rows added to it, and no table under a command that did not make it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmend.editors.base import editor
from vlmend.world.methods import FILES, METHODS, check_methods, files_for, methods_for

SMALL = ("--models", "demo-llava", "--evqa", "0", "--eic", "1", "--max-new-tokens", "12")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table") / "table"


@pytest.fixture
def table(vlmend_cli: Callable[..., Any], out: Path) -> Callable[..., Any]:
    """`table(*more)` writes into the same folder."""
    return lambda *more: vlmend_cli("world", "table", *SMALL, "--out", out, *more)


def rows(out: Path) -> list[str]:
    """The editors of the table's first part."""
    lines = (out / "table.md").read_text().split("What is to stay")[0].splitlines()
    return [line.split("`")[1] for line in lines if line.startswith("| `")]


def test_rows_are_measured_and_others_added(table: Callable[..., Any], out: Path) -> None:
    outcome = table("--editors", "null,oracle", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.document["table"] == str(out / "table.md")
    text = (out / "table.md").read_text()
    assert "--editors null,oracle --max-new-tokens 12`" in text
    assert "## demo-llava, E-IC, 1 errors" in text
    assert rows(out) == ["null", "oracle"]
    runs = out / "demo-llava" / "eic-runs"
    before = {name: (runs / name / "records.jsonl").read_bytes() for name in ("null", "oracle")}
    assert table("--editors", "null,parrot,ft-last,oracle").code == 0
    assert rows(out) == ["null", "parrot", "ft-last", "oracle"]
    assert {name: (runs / name / "records.jsonl").read_bytes() for name in before} == before
    said = [json.loads((runs / name / "metrics.json").read_text())[name]["metrics"] for name in ("null", "parrot")]
    assert said[0]["reliability"]["free_exact"]["before"] == said[1]["reliability"]["free_exact"]["before"]


def test_other_options_are_refused(table: Callable[..., Any], out: Path) -> None:
    assert table("--editors", "null").code == 0
    written = (out / "table.md").read_bytes()
    cases = str(out / "demo-llava" / "eic" / "eic_eval.jsonl")
    assert table("--editors", "null", "--eic", "2").is_a_users_mistake(cases, "eic 1, not 2", "another --out")
    assert table("--editors", "null", "--seed", "8").is_a_users_mistake("seed 7, not 8", "another --out")
    assert table("--editors", "null", "--max-new-tokens", "4").is_a_users_mistake("eic-runs/null", "max_new_tokens")
    assert table("--max-new-tokens", "0").is_a_users_mistake("--max-new-tokens")
    assert table("--editors", "rome").is_a_users_mistake("no row of the method table named 'rome'", "ft-last")
    assert (out / "table.md").read_bytes() == written


def test_cases_of_nobody_knows_what_are_refused(table: Callable[..., Any], out: Path, tmp_path: Path) -> None:
    assert table("--editors", "null").code == 0
    shutil.copytree(out, tmp_path / "old")
    (tmp_path / "old" / "demo-llava" / "eic" / "made.json").unlink()
    outcome = table("--editors", "null", "--out", tmp_path / "old")
    assert outcome.is_a_users_mistake("eic_eval.jsonl", "made.json", "another --out")


def test_any_editor_is_a_row_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmend.world.methods.METHODS", {})
    check_methods(["lora"])
    ((name, made),) = methods_for(None, ["lora"], {})  # type: ignore[arg-type]
    assert (name, made) == ("lora", editor("lora"))
    assert files_for(["lora"]) == set()


def test_files_are_made_for_those_who_read_them() -> None:
    assert files_for(["null", "ike-shown", "ft"]) == {"demonstrations"}
    assert files_for(list(METHODS)) == set(FILES)
