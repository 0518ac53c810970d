"""`vlmend demo`, on a tiny model and a few cases in place of the bundled ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmend.cli import demo
from vlmend.cli.arguments import read_cases


@pytest.fixture
def run_demo(
    vlmend_cli: Callable[..., Any],
    tiny_folder: Callable[..., Path],
    cases_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    monkeypatch.setattr(demo, "demo_cases", lambda count: read_cases(cases_file, count))
    monkeypatch.chdir(tmp_path)
    return lambda *more: vlmend_cli("demo", "--model", tiny_folder(), "--cases", 2, *more)


def test_last_line_is_the_path_of_the_report(run_demo: Callable[..., Any]) -> None:
    outcome = run_demo()
    assert outcome.code == 0, outcome.stderr
    report = Path(outcome.stdout.splitlines()[-1])
    assert report.parts[0] == "runs"
    assert report.parts[1].startswith("demo-")
    assert report.read_text().startswith("<!doctype html>")
    pictures = sorted(path.name for path in (report.parent / "figures").glob("evqa-*.png"))
    assert pictures == ["evqa-0.png", "evqa-1.png"]


def test_wrong_answers_come_first_and_scores_after(run_demo: Callable[..., Any]) -> None:
    text = run_demo().stdout
    assert 0 <= text.index("Wrong answers") < text.index("after one edit each") < text.index("before → after")
    assert "three birds" in text


def test_json_is_one_document(run_demo: Callable[..., Any], tmp_path: Path) -> None:
    here = tmp_path / "here"
    document = run_demo("--json", "--out", here).document
    assert document["run"] == str(here)
    assert document["editors"]["ft"]["reliability"]["n"] == 2
    assert f"--out {here}</code>" in (here / "report.html").read_text(), "the command is the one that was given"


def test_cases_are_spread_over_the_file() -> None:
    assert demo._spread(list(range(10)), 4) == [0, 2, 5, 7]  # pyright: ignore
    assert demo._spread(list(range(2)), 4) == [0, 1]  # pyright: ignore
