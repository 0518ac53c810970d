"""`vlmend world`: what its commands refuse before any work, and what their helps say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BUILD = ("world", "build", "demo")


@pytest.mark.parametrize("option", ["--evqa", "--eic", "--renamed", "--supposed", "--standing"])
def test_build_takes_no_count_below_0(vlmend_cli: Callable[..., Any], tmp_path: Path, option: str) -> None:
    for pair in ((-1, 0), (3, -2)):
        outcome = vlmend_cli(*BUILD, option, *pair, "--out", tmp_path / "made")
        assert outcome.is_a_users_mistake(f"'{option}'", f"{min(pair)} is below 0")
    assert not list(tmp_path.iterdir())


def test_nothing_to_make_is_a_mistake(vlmend_cli: Callable[..., Any], tmp_path: Path) -> None:
    none = ("--evqa", 0, 0, "--eic", 0, 0, "--out", tmp_path / "made")
    assert vlmend_cli(*BUILD, *none, "--json").is_a_users_mistake("all counts are 0", "--evqa")
    none = ("--evqa", 0, "--eic", 0, "--out", tmp_path / "made")
    assert vlmend_cli("world", "table", *none).is_a_users_mistake("--evqa and --eic are both 0", "nothing to measure")
    assert not list(tmp_path.iterdir())


def test_build_says_what_it_counts(vlmend_cli: Callable[..., Any], tmp_path: Path) -> None:
    outcome = vlmend_cli(*BUILD, "--evqa", 0, 0, "--eic", 0, 1, "--out", tmp_path / "made")
    assert outcome.code == 0, outcome.stderr
    assert "wrong in at least 2 of 3 pictures of a scene" in " ".join(outcome.stdout.split())
    assert "eic_eval.json" in outcome.stdout
    assert "┃" not in outcome.stdout


def test_a_sheet_has_an_end(vlmend_cli: Callable[..., Any], tmp_path: Path) -> None:
    outcome = vlmend_cli("world", "sample", "--columns", 100_000, "--out", tmp_path / "sheet.png")
    assert outcome.is_a_users_mistake("'--columns'", "200")
    assert not list(tmp_path.iterdir())


def test_helps_name_the_sections(vlmend_cli: Callable[..., Any]) -> None:
    from vlmend.world import attribution, exam

    for name, sections in (("exam", exam.SECTIONS), ("attribution", attribution.SECTIONS)):
        shown = " ".join(vlmend_cli("world", name, "--help").stdout.replace("│", " ").split())
        assert f"these sections: {', '.join(sections)}." in shown


def test_the_seed_of_what_is_asked_is_shown(vlmend_cli: Callable[..., Any]) -> None:
    from vlmend.world.alignment import SEED

    assert f"[default: {SEED}]" in vlmend_cli("world", "alignment", "--help").stdout
