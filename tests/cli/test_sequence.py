"""`vlmend sequence`: a table, a figure, a run folder that goes on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

FAST = ("--set", "ft.steps=2", "--max-new-tokens", "4")


@pytest.fixture(scope="module")
def model(tiny_folder) -> Path:
    return tiny_folder()


def test_measures_on_the_way_and_goes_on(vlmend_cli, model, cases_file, tmp_path):
    out = tmp_path / "run"
    given = ("sequence", model, cases_file, "--out", out, "--at", "1,2", *FAST, "--held-out", f"beside={cases_file}")
    first = vlmend_cli(*given)
    assert first.code == 0, first.stderr
    timed = ("Seconds per edit", "Seconds per query")
    for words in ("ft: per cent after so many edits", "Reliability", "beside: unchanged", *timed):
        assert words in first.stdout
    assert re.search(r"\d \[\d+–\d+\]", first.stdout), "intervals as in every table"
    figure = Path(first.stdout.strip().splitlines()[-1])
    with Image.open(figure) as picture:
        assert picture.width > 1000
    assert {path.name for path in (out / "edits" / "ft").iterdir()} == {"00001-edits", "00002-edits"}
    again = vlmend_cli(*given, "--json")
    (points,) = again.document["editors"].values()
    assert [point["edits"] for point in points] == [1, 2]
    assert len((out / "records.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("gone", [".", "ft/00001-edits"])
def test_a_run_whose_edits_are_gone_does_not_go_on(vlmend_cli, model, cases_file, tmp_path, gone):
    out = tmp_path / "run"
    given = ("sequence", model, cases_file, "--out", out, "--at", "1,2", *FAST)
    whole = vlmend_cli(*given, "--json").document["editors"]["ft"]
    records = out / "records.jsonl"
    first, second = records.read_text().splitlines(keepends=True)
    kept = tmp_path / "kept"
    shutil.move(out / "edits", kept)
    shutil.copytree(kept, out / "edits")
    shutil.rmtree(out / "edits" / gone)
    finished = vlmend_cli(*given)
    assert finished.code == 0  # a finished run needs no edits
    assert "Seconds per query" not in finished.stdout, "nothing is held out"
    records.write_text(first)
    lost = str(out / "edits" / "ft" / "00001-edits")
    assert vlmend_cli(*given).is_a_users_mistake(f"{lost} is missing", "put it back")
    assert records.read_text() == first
    shutil.copytree(kept, out / "edits", dirs_exist_ok=True)
    again = vlmend_cli(*given, "--json").document["editors"]["ft"]
    assert [point["retained"] for point in again] == [point["retained"] for point in whole]
    assert json.loads(records.read_text().splitlines()[1])["edits"] == json.loads(second)["edits"] == 2


def test_mistakes(vlmend_cli, model, cases_file, tmp_path):
    given = ("sequence", model, cases_file, "--out", tmp_path / "run")
    assert vlmend_cli(*given, "--at", "1,two").is_a_users_mistake("--at", "1,two")
    assert vlmend_cli(*given, "--at", "5000").is_a_users_mistake("no point", "cases")
    assert vlmend_cli(*given, "--held-out", "vqa").is_a_users_mistake("--held-out", "NAME=FILE")
    assert vlmend_cli(*given, "--held-out", "vqa=missing.json").is_a_users_mistake("missing.json")
    twice = ("--held-out", f"vqa={cases_file}") * 2
    assert vlmend_cli(*given, *twice).is_a_users_mistake("--held-out", "two files named 'vqa'")
    assert vlmend_cli(*given, "--set", "ft.steps=-3").is_a_users_mistake("'steps'", "editor 'ft'", "not -3")
    assert not (tmp_path / "run").exists()
    lost = ("--editors", "memit", "--set", "memit.reference=none.json", "--at", "1")
    assert vlmend_cli(*given, *lost).is_a_users_mistake("no reference at 'none.json'", "file of cases")
