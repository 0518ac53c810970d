"""`vlmend bench`: a whole run folder, equal numbers everywhere, runs that go on, and clear complaints."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlmend.data.formats import plain, read

STRONG = ("--set", "ft.lr=0.02", "--set", "ft.steps=25", "--set", "ft.layers=all", "--max-new-tokens", 6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench") / "run"


@pytest.fixture
def bench(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, run: Path
) -> Callable[..., Any]:
    """`bench(*more)` runs the same bench into the same folder."""
    return lambda *more: vlmend_cli("bench", tiny_folder(), cases_file, "--out", run, *STRONG, *more)


def test_run_folder_is_whole_and_agrees_with_the_document(bench: Callable[..., Any], run: Path) -> None:
    outcome = bench("--json")
    assert outcome.code == 0, outcome.stderr
    document = outcome.document
    assert document["report"] == str(run / "report.html")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["ft"]["metrics"] == document["editors"]["ft"]
    assert metrics["ft"]["cost"]["edits"] == 3
    about = json.loads((run / "run.json").read_text())
    assert about["editors"]["ft"]["steps"] == 25
    assert {"fingerprint", "seed", "versions", "cases"} <= set(about)
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert [record["case"] for record in records] == ["evqa-0", "evqa-1", "evqa-2"]
    page = (run / "report.html").read_text()
    for record in records:
        for probe in record["records"]:
            assert probe["question"] in page
    assert (run / "figures" / "metrics.png").stat().st_size > 0


def test_edits_do_something_and_their_score_is_counted_from_the_records(bench: Callable[..., Any], run: Path) -> None:
    reliability = bench("--json").document["editors"]["ft"]["reliability"]
    assert reliability["n"] == 3
    assert reliability["tf_token_acc"]["gain"]["mean"] > 0
    lines = (run / "records.jsonl").read_text().splitlines()
    hits = [json.loads(line)["records"][0]["tf_exact_after"] for line in lines]
    assert reliability["tf_exact"]["after"]["mean"] == pytest.approx(sum(hits) / 3)


def test_a_run_that_was_cut_short_goes_on_with_equal_numbers(bench: Callable[..., Any], run: Path) -> None:
    whole = bench("--json").document
    records = run / "records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text(lines[0] + lines[1][:40])
    (run / "metrics.json").unlink()
    assert bench("--json").document["editors"] == whole["editors"]
    kept = records.read_text().splitlines(keepends=True)
    assert kept[0] == lines[0]
    assert len(kept) == 3


def test_for_people_the_last_line_is_the_report(bench: Callable[..., Any], run: Path) -> None:
    outcome = bench()
    assert outcome.stdout.splitlines()[-1] == str(run / "report.html")
    assert "Reliability" in outcome.stdout


def test_one_table_has_all_metrics_with_interval_gain_and_divergence(bench: Callable[..., Any]) -> None:
    text = bench().stdout
    for words in ("per cent after the edit", "before", "Reliability (Rel)", "M-Loc", "KL ", "Seconds per edit"):
        assert words in text
    assert re.search(r"Reliability \(Rel\) +3 +0 +100 \[\d+–100\]", text)
    assert re.search(r"\+100 \[\+\d+, \+100\]", text)
    assert "ft: 3 of 3 corrected questions are answered right (before: 0)" in " ".join(text.split())


def test_all_edits_in_force_at_once(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    """One edit is made for all cases, and measured on each: `parrot` says the last case's target to all of them."""
    args = ("bench", tiny_folder(), cases_file, "--editors", "parrot", "--out", tmp_path / "run", "--max-new-tokens", 6)
    outcome = vlmend_cli(*args, "--together", "--json")
    assert outcome.code == 0, outcome.stderr
    said = outcome.document["editors"]["parrot"]["reliability"]["free_exact"]["after"]["mean"]
    assert said == pytest.approx(1 / 3)
    assert "edited at once" in (tmp_path / "run" / "report.html").read_text()
    assert "--together" in (tmp_path / "run" / "report.html").read_text()
    assert vlmend_cli(*args).is_a_users_mistake(str(tmp_path / "run"), "at_once")


def test_scores_apart_by_a_note(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    cases = read(cases_file)
    noted = [replace(case, notes=(("error", f'"{what}"'),)) for case, what in zip(cases, "aab", strict=True)]
    plain.write(noted, tmp_path / "noted.jsonl")
    args = ("bench", tiny_folder(), tmp_path / "noted.jsonl", "--editors", "parrot", "--out", tmp_path / "run")
    outcome = vlmend_cli(*args, "--by", "error", "--max-new-tokens", 6, "--json")
    assert outcome.code == 0, outcome.stderr
    by = outcome.document["by"]
    assert {value: one["cases"] for value, one in by.items()} == {"a": 2, "b": 1}
    assert by["a"]["editors"]["parrot"]["reliability"]["n"] == 2
    assert by["a"]["Mean gain (free answers)"]["parrot"]["n"] == 2
    page = (tmp_path / "run" / "report.html").read_text()
    assert "error: a" in page
    assert "--by error" in page
    assert vlmend_cli(*args, "--by", "kind").is_a_users_mistake("note of the cases named 'kind'", "error")


@pytest.mark.parametrize("protocol", ["legacy", "visedit"])
def test_published_protocols(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path, protocol: str
) -> None:
    command = ("bench", tiny_folder(), cases_file, "--out", tmp_path / "run", *STRONG, "--protocol", protocol)
    document = vlmend_cli(*command, "--json").document
    assert document["protocol"] == json.loads((tmp_path / "run" / "run.json").read_text())["protocol"] == protocol
    reliability = document["editors"]["ft"]["reliability"]
    assert reliability["score"] == reliability["tf_token_acc"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    asked = [probe["question"] for line in lines for probe in line["records"]]
    assert any(question.endswith("The answer is:") for question in asked) == (protocol == "visedit")
    assert f"--protocol {protocol}" in (tmp_path / "run" / "report.html").read_text()
    other = vlmend_cli(*command[:-1], "default")
    assert other.is_a_users_mistake(str(tmp_path / "run"), "protocol")


def test_other_settings_in_the_same_folder(bench: Callable[..., Any], run: Path) -> None:
    bench()
    assert bench("--set", "ft.steps=2").is_a_users_mistake(str(run), "editors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--editors", "rome"), ("no editor named 'rome'", "ft")),
        (("--editors", ","), ("no editor",)),
        (("--protocol", "bleu"), ("no protocol named 'bleu'", "legacy")),
        (("--set", "ft.speed=3"), ("speed", "steps")),
        (("--set", "ft.steps=many"), ("steps", "integer")),
        (("--set", "steps=3"), ("EDITOR.NAME=VALUE", "not 'steps'; write ft.steps=3")),
        (("--set", "ft.lr=x"), ("--set ft.lr=x:", "setting 'lr' of editor 'ft': it should be", "not 'x'")),
        (("--set", "ft.steps"), ("NAME=VALUE",)),
    ],
)
def test_what_is_asked_for_wrongly(
    vlmend_cli: Callable[..., Any], cases_file: Path, tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    assert vlmend_cli("bench", "no-model", cases_file, "--out", out, *options).is_a_users_mistake(*words)
    assert not out.exists()


def mangled(path: Path, folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> Path:
    """A copy of a cases file, changed, that still finds its pictures."""
    records = json.loads(path.read_text())
    for record in records:
        for field in ("image", "image_rephrase", "m_loc"):
            record[field] = str(path.parent / record[field])
    records = change(records) or records
    copy = folder / "cases.json"
    copy.write_text(json.dumps(records))
    return copy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda records: records[1].update(image="absent.png"), ("record 1", "absent.png")),
        (lambda records: records[2].update(alt=5), ("record 2", "'alt'")),
        (lambda records: records[0].update(alt=""), ("no target",)),
        (lambda records: {"cases": records}, ("list",)),
        (lambda records: [1, 2], ("list",)),
    ],
)
def test_cases_that_are_wrong(
    vlmend_cli: Callable[..., Any],
    tiny_folder: Callable[..., Path],
    cases_file: Path,
    tmp_path: Path,
    change: Callable[[list[dict[str, Any]]], Any],
    words: tuple[str, ...],
) -> None:
    bad = mangled(cases_file, tmp_path, change)
    assert vlmend_cli("bench", tiny_folder(), bad, "--out", tmp_path / "run", "--json").is_a_users_mistake(*words)


def test_cases_with_missing_pictures_can_be_left_out(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    bad = mangled(cases_file, tmp_path, lambda records: records[1].update(image="absent.png"))
    outcome = vlmend_cli(
        "bench", tiny_folder(), bad, "--out", tmp_path / "run", "--skip-missing", "--set", "ft.steps=1", "--json"
    )
    assert outcome.document["cases"] == 2
    assert "--skip-missing" in (tmp_path / "run" / "report.html").read_text()


def test_another_picture_under_the_old_name_is_refused_and_a_moved_folder_goes_on(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(cases_file.parent, here)

    def given(folder: Path) -> tuple[Any, ...]:
        path = folder / cases_file.name
        return ("bench", tiny_folder(), path, "--editors", "null", "--out", tmp_path / "run", "--max-new-tokens", 4)

    assert vlmend_cli(*given(here)).code == 0
    records = (tmp_path / "run" / "records.jsonl").read_bytes()
    here.rename(there)
    assert vlmend_cli(*given(there)).code == 0
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == records
    one, other, *_ = sorted(there.glob("*.png"))
    shutil.copy(one, other)
    assert vlmend_cli(*given(there)).is_a_users_mistake(str(tmp_path / "run"), "holds a run with other cases")


def test_cases_file_that_is_not_json(vlmend_cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text("[{")
    outcome = vlmend_cli("bench", "demo", tmp_path / "cases.json", "--out", tmp_path / "run")
    assert outcome.is_a_users_mistake("cases.json", "not JSON")


def test_out_is_a_file(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    outcome = vlmend_cli("bench", tiny_folder(), cases_file, "--out", tmp_path / "taken")
    assert outcome.is_a_users_mistake(f"--out {tmp_path / 'taken'} is a file; name a folder")


def test_each_editor_in_each_place(vlmend_cli, tiny_folder, cases_file, tmp_path):
    given = ("bench", tiny_folder(), cases_file, "--out", tmp_path / "run", "--limit", 1, "--max-new-tokens", 4)
    fast = ("--editors", "ft,null", "--set", "ft.steps=2", "--set", "ft.lr=0.01")
    outcome = vlmend_cli(*given, *fast, "--modules", "language,connector,vision", "--json")
    assert outcome.code == 0, outcome.stderr
    assert list(outcome.document["editors"]) == ["ft language", "ft connector", "ft vision", "null"]
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    places = [about["editors"][f"ft {place}"]["modules"] for place in ("language", "connector", "vision")]
    assert places == [["mlp.down"], ["connector"], ["vision"]]
    changed = {json.dumps(outcome.document["editors"][f"ft {place}"]) for place in ("language", "connector", "vision")}
    assert len(changed) == 3
    again = vlmend_cli(*given, *fast, "--modules", "language,connector,vision")
    assert "Measured once, without a choice of module: null\n" in again.stdout
    mistake = vlmend_cli(*given, "--modules", "ears")
    assert mistake.is_a_users_mistake("--modules takes language", "no module role 'ears'", "connector")
    mistake = vlmend_cli(*given, "--editors", "ft", "--set", 'ft.modules=["connector"]', "--modules", "language")
    assert mistake.is_a_users_mistake("--modules language", "'ft.modules' is set to 'connector'")


def test_each_editor_in_modules_by_path(vlmend_cli, tiny_folder, cases_file, tmp_path):
    given = ("bench", tiny_folder(), cases_file, "--limit", 1, "--max-new-tokens", 4, "--editors", "ft")
    fast = ("--set", "ft.steps=2", "--set", "ft.lr=0.01", "--out", tmp_path / "run")
    outcome = vlmend_cli(*given, *fast, "--modules", "language,*.mlp.fc1", "--json")
    assert list(outcome.document["editors"]) == ["ft language", "ft *.mlp.fc1"], outcome.stderr
    mistake = vlmend_cli(*given, "--modules", "*.mlp.fc9", "--out", tmp_path / "none")
    assert mistake.is_a_users_mistake("no module role '*.mlp.fc9'")


def test_a_setting_that_cannot_be_is_one_line(vlmend_cli, tiny_folder, cases_file, tmp_path):
    given = ("bench", tiny_folder(), cases_file, "--out", tmp_path / "run", "--editors", "lora")
    assert vlmend_cli(*given, "--set", "lora.rank=0").is_a_users_mistake("'rank'", "editor 'lora'", "1, not 0")
    assert not (tmp_path / "run").exists()


def test_edits_in_force_are_there_before_and_after(vlmend_cli, tiny_folder, cases_file, tmp_path) -> None:
    made = tmp_path / "made"
    model, few = tiny_folder(), ("--limit", 1, "--max-new-tokens", 4)
    assert (
        vlmend_cli("edit", model, cases_file, "--editor", "ft", "--limit", 1, "--set", "lr=1e-2", "--out", made).code
        == 0
    )
    plain = ("bench", model, cases_file, "--editors", "null", *few, "--json")
    without = vlmend_cli(*plain, "--out", tmp_path / "without").document["editors"]["null"]["reliability"]
    (one,) = (path.parent for path in made.rglob("edit.json"))
    given = vlmend_cli(*plain, "--out", tmp_path / "with", "--edit", one)
    assert given.code == 0, given.stderr
    found = given.document["editors"]["null"]["reliability"]
    assert found["score"]["before"]["mean"] == found["score"]["after"]["mean"] == 1
    assert without["score"]["after"]["mean"] == 0
    # another run than without the edit
    assert vlmend_cli(*plain[:-1], "--out", tmp_path / "with").is_a_users_mistake("edits")
