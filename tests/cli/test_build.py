"""`vlmend build`: a benchmark out of one's own data, the same one after a kill, and clear complaints."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vlmend
from vlmend.data.formats import plain, read
from vlmend.data.records import EditCase, Example
from vlmend.models.outputs import Reply
from vlmend.models.pictures import save_picture
from vlmend.world.exemplars import write

FILES = ("README.md", "train.json", "train.jsonl", "eval.json", "eval.jsonl", "statistics.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the demo world with questions, second pictures, and pools of what must stay."""
    folder = tmp_path_factory.mktemp("data")
    write(folder, 14, 5, again=True)
    write(folder / "pool", 10, 6)
    facts = [EditCase(f"f{n}", Example(f"what is the capital of place {n} ?", None, f"city {n}")) for n in range(9)]
    plain.write(facts, folder / "facts.jsonl")
    return folder


def words(data: Path, out: Path) -> list[str]:
    pools = ["--text-locality", data / "facts.jsonl", "--image-locality", data / "pool" / "exemplars.jsonl"]
    return list(map(str, ["build", "demo", data / "exemplars.jsonl", "--out", out, *pools, "--draws", 1]))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark whose building nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "bench"
    subprocess.run([sys.executable, "-m", "vlmend", *words(data, out)], check=True, capture_output=True)
    return out


def test_it_is_what_the_model_gets_wrong_with_probes_and_without_leaks(whole: Path, data: Path) -> None:
    found = json.loads((whole / "statistics.json").read_text())
    assert found["clean"] is True
    assert not any(leak["cases"] for role, leak in found["leaks"].items() if role != "edit question")
    known = {case.request.question: case for case in read(data / "exemplars.jsonl")}
    vlm = vlmend.load("demo")
    cases = [case for side in ("train", "eval") for case in read(whole / f"{side}.jsonl")]
    assert len(cases) == found["train"]["cases"] + found["eval"]["cases"] >= 2
    lost = sum(found["dropped"]["asked"].values())
    assert len(cases) + lost == found["asked"] == len(read(data / "exemplars.jsonl"))
    for case in cases:
        assert case.request.question in known
        said = vlm.answer(case.request.image, case.request.question)
        assert said == case.rejected != case.request.answer
        for probe in case.probes_of("image_generality"):
            again = vlm.answer(probe.example.image, probe.example.question)
            assert again != case.request.answer
            assert probe.premises or again == case.rejected
            for premise in probe.premises:
                assert vlm.answer(premise.image, premise.question) == premise.answer
        kinds = [probe.kind for probe in case.probes]
        assert {"text_generality", "text_locality", "image_locality"} <= set(kinds)


def test_easyedits_json_is_whole_and_card_says_how(whole: Path) -> None:
    """It has the cases of which nothing is missing: all else is asked in its .jsonl alone, and counted."""
    count = 0
    for side in ("train", "eval"):
        own, published = read(whole / f"{side}.jsonl"), read(whole / f"{side}.json")
        seconds = [case for case in own if case.probes_of("image_generality")]
        assert [case.request for case in published] == [replace(case.request, aliases=()) for case in seconds]
        assert all(all(record.values()) for record in json.loads((whole / f"{side}.json").read_text()))
        count += len(own) - len(published)
    assert json.loads((whole / "statistics.json").read_text())["dropped"]["published"] == {
        "it lacks image_rephrase": count
    }
    card = (whole / "README.md").read_text()
    assert "Nothing leaks" in card
    assert "vlmend build demo" in card
    assert "answered rightly" in card


@pytest.mark.parametrize(
    "records", [pytest.param(1, marks=pytest.mark.slow), 35, pytest.param(44, marks=pytest.mark.slow)]
)
def test_killed_it_goes_on_to_the_same_files(whole: Path, data: Path, tmp_path: Path, records: int) -> None:
    """Killed in the middle of a batch of answers, and while rewording and judging pictures."""
    out = tmp_path / "bench"
    log = out / "records.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "vlmend", *words(data, out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    start = time.monotonic()
    while (log.read_bytes().count(b"\n") if log.exists() else 0) < records and process.poll() is None:
        assert time.monotonic() - start < 300
        time.sleep(0.002)
    process.kill()
    process.wait()
    log.write_bytes(log.read_bytes() + b'{"step": "asked", "id": "half')
    subprocess.run([sys.executable, "-m", "vlmend", *words(data, out)], check=True, capture_output=True)
    for name in FILES:
        mine, other = ((folder / name).read_text().replace(str(folder), "OUT") for folder in (out, whole))
        assert mine == other, name


def test_captions(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    """A tiny random model captions nothing rightly; templates for captions stand in the question's place."""
    args = ("build", tiny_folder(), cases_file, "--kind", "caption", "--draws", 0, "--out", tmp_path / "bench")
    outcome = vlmend_cli(*args, "--train", 0, "--json", "--max-new-tokens", 4)
    assert outcome.code == 0, outcome.stderr
    assert outcome.document["eval"]["cases"] == 3
    assert outcome.document["train"]["cases"] == 0
    assert not (tmp_path / "bench" / "train.json").exists()


@pytest.mark.parametrize(("words", "errors"), [(None, 0), ("world", 1), ("none", 0)])
def test_words_that_captions_are_judged_by(
    vlmend_cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Callable[..., Path],
    cases_file: Path,
    tmp_path: Path,
    words: str | None,
    errors: int,
) -> None:
    """The world has kettles, CHAIR's list has none, and with no words a caption much like a reference is right."""
    case = replace(read(cases_file)[0], probes=())
    case = replace(case, request=replace(case.request, answer="a kitchen with a table and a chair"))
    plain.write([case], tmp_path / "data.jsonl")
    said = Reply("a kitchen with a table, a chair and a kettle", ())
    monkeypatch.setattr("vlmend.models.vlm.VLM.replies", lambda self, prepared, **_: [said] * len(prepared.rows))
    out = tmp_path / "bench"
    args = ("build", tiny_folder(), tmp_path / "data.jsonl", "--kind", "caption", "--draws", 0, "--out", out)
    outcome = vlmend_cli(*args, "--train", 0, "--json", *(("--words", words) if words else ()))
    if errors:
        assert outcome.document["eval"]["cases"] == errors, outcome.stderr
        assert "--words world" in (out / "README.md").read_text()
    else:
        assert outcome.is_a_users_mistake("makes no error for good")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (("--kind", "essay"), "kind of data"),
        (("--kind", "caption", "--words", "nowhere.txt"), "nowhere.txt"),
        (("--words", "world"), "--kind caption"),
        (("--caption", "nothing"), "note of the cases named 'nothing'"),
        (("--rephrase", "nowhere"), "--rephrase takes templates, none, a folder or a URL"),
        (("--text-locality", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--rephrase", "https://me:hush@host/v1"), "a name and password"),
        (("--rephrase", "https://host/v1?api_key=hush"), "ends before any"),
        (("--rephrase", "HTTPS://me:hush@host/v1"), "a name and password"),
        (("--rephrase", "me:hush@host/v1"), "takes templates, none, a folder or a URL, not that"),
        (("--rephrase", "http://127.0.0.1:9"), "cannot be reached"),
        (("--score", "nowhere"), "'nowhere' is no folder, and a hub id is written OWNER/NAME"),
        (("--pictures", "nowhere"), "'nowhere' is no folder, and a hub id is written OWNER/NAME"),
        (("--score", "no/such"), "'no/such' holds no model of pictures and texts: it is not in the local cache"),
        (("--rephrase", "."), "'.' holds no chat model"),
        (("--score", "."), "'.' holds no model of pictures and texts"),
    ],
)
def test_mistakes(
    vlmend_cli: Callable[..., Any],
    tiny_folder: Callable[..., Path],
    cases_file: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    problem: str,
) -> None:
    """Found before anything is asked, and with no secret in what is said of it."""
    out = tmp_path / "bench"
    outcome = vlmend_cli("build", tiny_folder(), cases_file, "--out", out, *more)
    assert outcome.is_a_users_mistake(problem)
    assert "hush" not in outcome.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    "more", [("--rephrase", "."), ("--score", "."), ("--words", "nowhere"), ("--text-locality", "no")]
)
def test_mistakes_are_found_before_the_model_is_loaded(
    vlmend_cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    cases_file: Path,
    tmp_path: Path,
    more: tuple[str, ...],
) -> None:
    """Which takes minutes where it is a large one."""
    loaded: list[str] = []
    monkeypatch.setattr("vlmend.cli.build.load_model", loaded.append)
    out = tmp_path / "bench"
    outcome = vlmend_cli("build", "demo", cases_file, "--kind", "caption", "--out", out, *more)
    assert outcome.is_a_users_mistake(more[1])
    assert not loaded
    assert not out.exists()


def test_no_painter(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    args = ("build", tiny_folder(), cases_file, "--pictures", tmp_path, "--out", tmp_path / "bench")
    assert vlmend_cli(*args).is_a_users_mistake("holds no text-to-image pipeline")
    assert not (tmp_path / "bench").exists()


@pytest.mark.parametrize(("option", "what"), [("--text-locality", "without"), ("--image-locality", "about")])
def test_a_pool_of_the_other_sort(
    vlmend_cli: Callable[..., Any],
    tiny_folder: Callable[..., Path],
    cases_file: Path,
    data: Path,
    tmp_path: Path,
    option: str,
    what: str,
) -> None:
    file = data / ("facts.jsonl" if what == "about" else "exemplars.jsonl")
    outcome = vlmend_cli("build", tiny_folder(), cases_file, "--out", tmp_path / "bench", option, file)
    assert outcome.is_a_users_mistake(file.name, f"{option} takes questions {what} pictures, and it has none")


@pytest.mark.parametrize("option", ["--text-locality", "--image-locality", "--words"])
def test_a_run_goes_on_only_with_what_the_same_files_said(
    vlmend_cli: Callable[..., Any],
    tiny_folder: Callable[..., Path],
    cases_file: Path,
    picture: Callable[[int], Any],
    tmp_path: Path,
    option: str,
) -> None:
    """By their content: a copy of a file goes on, the same name with something else in it does not."""
    file, copy = tmp_path / "given.jsonl", tmp_path / "copy.jsonl"

    def given(number: int) -> str:
        shown = save_picture(picture(number), tmp_path / "shown.png") if option == "--image-locality" else None
        plain.write([EditCase("a", Example("who ?", shown, "me" if shown else f"me {number}"))], file)
        text = f"cup, mug{number}\n" if option == "--words" else file.read_text()
        file.write_text(text)
        return text

    copy.write_text(given(80))
    args = ("build", tiny_folder(), cases_file, "--kind", "caption", "--draws", 0, "--out", tmp_path / "bench")
    args = (*args, "--max-new-tokens", 4, option)
    assert (outcome := vlmend_cli(*args, file)).code == 0, outcome.stderr
    assert (outcome := vlmend_cli(*args, copy)).code == 0, outcome.stderr
    before = (tmp_path / "bench" / "records.jsonl").read_bytes()
    given(81)
    assert vlmend_cli(*args, file).is_a_users_mistake(str(tmp_path / "bench"), option.strip("-"))
    assert (tmp_path / "bench" / "records.jsonl").read_bytes() == before


def test_a_record_without_a_picture(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    plain.write([EditCase("a", Example("who ?", None, "me"))], tmp_path / "data.jsonl")
    outcome = vlmend_cli("build", tiny_folder(), tmp_path / "data.jsonl", "--out", tmp_path / "bench")
    assert outcome.is_a_users_mistake("record 'a' has no picture")


def test_words_for_two_objects(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], cases_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("cup, mug\nmug\n")
    args = ("build", tiny_folder(), cases_file, "--kind", "caption", "--words", tmp_path / "words.txt")
    outcome = vlmend_cli(*args, "--out", tmp_path / "bench")
    assert outcome.is_a_users_mistake("words.txt", "'mug' for both 'cup' and 'mug'")
    assert not (tmp_path / "bench").exists()
