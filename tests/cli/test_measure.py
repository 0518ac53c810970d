"""`vlmend measure`: a whole run folder, runs that go on, scoring anew, and clear complaints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlmend.data.formats import pope
from vlmend.data.questions import YesNoQuestion


@pytest.fixture
def pope_file(tmp_path: Path, picture: Callable[[int], Image.Image]) -> Path:
    """Two questions on each of two pictures, which lie beside the file."""
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    questions = [YesNoQuestion(n, f"{n // 2}.png", f"Is there a dog {n} ?", "no" if n % 2 else "yes") for n in range(4)]
    pope.write(questions, tmp_path / "coco_pope_random.json")
    return tmp_path / "coco_pope_random.json"


@pytest.fixture
def measure(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """`measure(*more)` measures a tiny model into one folder."""
    return lambda *more: vlmend_cli("measure", tiny_folder(), "--out", tmp_path / "run", "--max-new-tokens", 3, *more)


def test_a_published_file(measure: Callable[..., Any], pope_file: Path, tmp_path: Path) -> None:
    outcome = measure("--file", pope_file, "--json")
    assert outcome.code == 0, outcome.stderr
    whole = outcome.document
    assert whole["suites"]["pope"]["scores"]["n"] == 4
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == whole["suites"]
    answers = json.loads((tmp_path / "run" / "pope.json").read_text())["records"]
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["response"] for line in lines] == [one["text"] for one in answers]

    # Cut short, it goes on with equal numbers and asks only what is left.
    (tmp_path / "run" / "records.jsonl").write_text("".join(f"{line}\n" for line in lines[:1]))
    assert measure("--file", pope_file, "--json").document == whole
    assert (tmp_path / "run" / "records.jsonl").read_text().splitlines() == lines

    # The same answers by another protocol; other questions are another run.
    again = measure("--file", pope_file, "--protocol", "pope")
    assert again.code == 0
    assert "pope (pope): per cent" in again.stdout
    assert measure("--file", pope_file, "--limit", 3).is_a_users_mistake(
        "holds a run with suites.pope=", "records, not 3 records"
    )


def test_contrastive_decoding(measure: Callable[..., Any], pope_file: Path) -> None:
    """Other answers are another run."""
    vcd = ("--file", pope_file, "--decoding", "vcd", "--set", "alpha=4", "--set", "beta=0.01")
    outcome = measure(*vcd, "--json")
    assert outcome.code == 0, outcome.stderr
    found = {"name": "vcd", "alpha": 4, "beta": 0.01, "step": 500, "temperature": 0.0, "seed": 0}
    assert outcome.document["decoding"] == found
    assert measure(*vcd, "--json").document == outcome.document
    assert measure("--file", pope_file).is_a_users_mistake('holds a run with decoding.name="vcd", not "greedy"')


def test_missing_pictures(measure: Callable[..., Any], pope_file: Path, tmp_path: Path) -> None:
    (tmp_path / "1.png").unlink()
    assert measure("--file", pope_file).is_a_users_mistake("1 image is missing (record 2:", "1.png")
    assert measure("--file", pope_file, "--skip-missing", "--json").document["suites"]["pope"]["scores"]["n"] == 2
    assert measure("--file", pope_file, "--images", tmp_path / "no", "--skip-missing").is_a_users_mistake("none of its")


def test_damaged_pictures(measure: Callable[..., Any], pope_file: Path, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("no picture")
    asked = ("--file", pope_file)
    assert measure(*asked).is_a_users_mistake(pope_file.name, "question 2:", "1.png", "skip_missing")
    assert not (tmp_path / "run").exists()
    assert measure(*asked, "--skip-missing", "--json").document["suites"]["pope"]["scores"]["n"] == 2
    (tmp_path / "0.png").write_text("none either")
    assert measure(*asked, "--skip-missing").is_a_users_mistake("none of its pictures can be read")


def test_the_demo_world(measure: Callable[..., Any]) -> None:
    document = measure("--suite", "pope,chair", "--scenes", 2, "--json").document
    assert set(document["suites"]) == {"pope", "chair"}
    assert document["suites"]["chair"]["n"] == 2
    assert set(document["suites"]["pope"]["kinds"]) == {"random", "popular", "adversarial"}
    table = measure("--suite", "pope,chair", "--scenes", 2)
    assert "words in an answer" in table.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--suite", "mme"), "no suite named 'mme'; there are: amber, chair, llava-bench, llava-bench-coco, mmhal"),
        (("--suite", "amber"), "suite 'amber' is asked from a file: --file amber=.../query_all.json"),
        (("--suite", " ,"), "--suite names no suite"),
        (("--suite", "pope,chair", "--protocol", "pope"), "--protocol goes with one suite"),
        (("--protocol", "strict"), "no POPE protocol named 'strict'"),
        (("--suite", "pope,amber", "--file", "x.json"), "--file takes SUITE=PATH where several suites are asked"),
        (("--file", "x.json", "--file", "y.json"), "--file names two paths for 'pope'"),
        (("--file", "x.json", "--file", "pope.relation=y.json"), "no file of suite 'pope' named 'relation'"),
        (("--file", "x.json", "--judge-prompt", "y.txt"), "--judge-prompt goes with a judged suite"),
        (("--suite", "mmvet", "--file", "x.json"), "suite 'mmvet' is judged: give --judge-model"),
        (("--judge", "http://127.0.0.1:1/v1"), "--judge goes with --judge-model"),
        (("--judge-model", "gpt-4", "--judge-key", "X"), "--judge-key goes with --judge"),
        (("--judge-model", "gpt-4", "--judge", "http://me:x@127.0.0.1/v1"), "a name and password in it is not taken"),
        (("--judge-model", "gpt-4", "--replies", "gone.jsonl"), "gone.jsonl: there is no such file"),
        (("--decoding", "opera"), "no decoding named 'opera'; there are: greedy, vcd"),
        (("--set", "alpha=1"), "no setting of decoding 'greedy' named 'alpha'"),
        (("--decoding", "vcd", "--set", "alpha=much"), "vcd: alpha, beta and temperature are numbers"),
        (("--against", "gone"), "--against gone: it holds no result of a judged suite among pope"),
        (("--limit", 3), "--limit goes with --file"),
        (("--images", "x"), "--images goes with --file"),
        (("--file", "absent.json"), "absent.json: cannot be read"),
    ],
)
def test_complaints_come_before_the_model(
    vlmend_cli: Callable[..., Any], options: tuple[object, ...], words: str
) -> None:
    outcome = vlmend_cli("measure", "no-such-model", "--out", "nowhere", *options)
    assert outcome.is_a_users_mistake(words)
    assert not Path("nowhere").exists()
