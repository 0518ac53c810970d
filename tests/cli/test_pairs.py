"""`vlmend pairs`: the same files after a kill and from two processes, and nothing lost to bad records or endpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launching import both as both_processes
from loopback import completion
from vlmend.data.formats import trl
from vlmend.data.formats.preferences import read_pairs
from vlmend.world.positives import write

FILES = ("pairs-00000.jsonl", "pairs-00001.jsonl", "dropped.jsonl", "manifest.json", "metrics.json")
WAIT = 300.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty natural scenes with right answers."""
    return write(tmp_path_factory.mktemp("data"), 12, 8, 3)


def words(data: Path, out: Path, *more: object) -> list[str]:
    return list(map(str, ["pairs", "demo", data, "--out", out, "--step", 600, "--shard", 8, *more]))


def run(data: Path, out: Path, *more: object, launch: Any = ()) -> subprocess.Popen[bytes]:
    command = [sys.executable, *launch, "-m", "vlmend", *words(data, out, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nobody disturbed; beside the other folders, so that paths to pictures are alike."""
    out = data.parent / "whole"
    process = run(data, out)
    assert process.wait(WAIT) == 0, process.stderr and process.stderr.read().decode()
    return out


def test_what_is_made(whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    pairs = read_pairs(whole)
    assert manifest["pairs"] == len(pairs) > 8
    assert set(manifest["by"]) == {"weaken", "inject"}
    for way, counts in manifest["by"].items():
        assert counts["pairs"] + sum(counts["dropped"].values()) == 20
        assert counts["pairs"] == sum(pair.id.endswith(f"/{way}") for pair in pairs)
    for pair in pairs:
        assert pair.chosen != pair.rejected
        assert pair.labelled
        assert all(image.is_file() for image in pair.pictures)
    injected = [pair for pair in pairs if pair.origin == "injected"]
    assert all(len(pair.chosen.split()) == len(pair.rejected.split()) for pair in injected)


def test_killed_and_gone_on_with(whole: Path, data: Path) -> None:
    out = data.parent / "killed"
    for wanted in (1, 14):
        process, start = run(data, out), time.monotonic()
        while (len(list(lines(out))) < wanted) and process.poll() is None:
            assert time.monotonic() - start < WAIT
            time.sleep(0.002)
        process.kill()
        process.wait()
    assert run(data, out).wait(WAIT) == 0
    assert contents(out) == contents(whole)


def lines(out: Path) -> list[bytes]:
    return [line for path in out.glob("records*.jsonl") for line in path.read_bytes().splitlines()]


def test_two_processes_make_what_one_makes(whole: Path, data: Path) -> None:
    out = data.parent / "both"
    process = run(data, out, "--json", launch=both_processes())
    document, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors.decode()
    assert json.loads(document)["pairs"] == len(read_pairs(whole))
    assert {json.loads(line)["rank"] for line in lines(out)} == {0, 1}
    found, alone = read_pairs(out), read_pairs(whole)
    assert [(one.id, one.rejected) for one in found] == [(one.id, one.rejected) for one in alone]


def bad(data: Path) -> Path:
    """The same with a picture that is missing, one that is none, an empty answer, and a question without picture."""
    records = json.loads(data.read_text())[:6]
    records[0]["image"] = "images/nowhere.png"
    records[1]["image"] = "bad.png"
    (data.parent / "bad.png").write_bytes(b"no picture")
    records[2]["conversations"][1]["value"] = " "
    del records[3]["image"]
    records[3]["conversations"][0]["value"] = "what is it?"
    path = data.parent / "bad.json"
    path.write_text(json.dumps(records))
    return path


def test_bad_records_are_counted_and_named(vlmend_cli, data: Path) -> None:
    out = data.parent / "bad"
    done = vlmend_cli(*words(bad(data), out, "--by", "inject", "--plausible", -50, "--json"))
    assert done.code == 0, done.stderr
    dropped = {one["id"]: one for one in map(json.loads, (out / "dropped.jsonl").read_text().splitlines())}
    reasons = {name: dropped[f"positive-{n}"]["why"] for n, name in enumerate(("missing", "none", "empty", "blind"))}
    assert reasons == {
        "missing": ["the model cannot be asked it"],
        "none": ["the model cannot be asked it"],
        "empty": ["no good answer"],
        "blind": ["no picture"],
    }
    assert "nowhere.png: no such file" in dropped["positive-0"]["detail"]
    again = vlmend_cli(*words(bad(data), out, "--by", "inject", "--plausible", -50))
    assert "2 records could not be asked, 'positive-0' first: " in again.stdout.replace("\n", " ")
    assert done.document["pairs"] + len(dropped) == 6


def wrong(body: dict[str, Any]) -> str:
    """A rewritten answer: every count and article is another."""
    answer = body["messages"][0]["content"].rpartition("Right: ")[2].removesuffix(" Wrong:")
    return f"{answer.rstrip('.').rpartition(' ')[0]} purple"


def test_a_rewriter_that_marks_a_picture(vlmend_cli, serve, tiny_folder, data: Path, tmp_path: Path) -> None:
    """What stands for a picture cannot be in an answer: such a one is dropped, and the rest goes on."""
    url = serve(lambda body: (200, completion("one <image> cat" if body["seed"] % 2 else "a red cat")))
    given = ("--by", "inject", "--rewriter", url, "--words", "none", "--ratio", 0.01, 99, "--plausible", -99)
    command = ["pairs", tiny_folder(), data, "--out", tmp_path / "out", *given, "--tries", 1, "--json"]
    done = vlmend_cli(*command)
    assert done.code == 0, done.stderr
    dropped = done.document["by"]["inject"]["dropped"]
    assert dropped == {"the model cannot be given it": 20 - done.document["pairs"]}
    assert 0 < done.document["pairs"] < 20


def test_an_endpoint_rewrites(vlmend_cli, serve, data: Path) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        tried = body["messages"][0]["content"] == "Say hello."  # before the work
        return 200, completion(wrong(body)) if body["seed"] % 2 or tried else b"<html>"

    url = serve(answer)
    out = data.parent / "endpoint"
    given = ("--by", "inject", "--rewriter", url, "--answers", "question", "--plausible", -50, "--limit", 12)
    done = vlmend_cli(*words(data, out, *given, "--json"))
    assert done.code == 0, done.stderr
    made = [json.loads(line) for line in lines(out)]
    assert len(made) == 12
    assert done.document["by"]["inject"]["pairs"] > 6
    assert any("the reply is no chat completion" in one["why"] for one in made)


def test_an_endpoint_that_goes_down_loses_nothing(vlmend_cli, serve, data: Path) -> None:
    asked: list[int] = []

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        asked.append(1)
        return (200, completion(wrong(body))) if not 10 < len(asked) < 20 else (404, b"")

    out = data.parent / "down"
    given = ("--by", "inject", "--rewriter", serve(answer), "--answers", "question", "--plausible", -50, "--tries", 1)
    done = vlmend_cli(*words(data, out, *given))
    assert done.is_a_users_mistake("refuses: HTTP 404", "keeps 8 finished records")
    assert not (out / "manifest.json").exists()
    asked += [1] * 20
    again = vlmend_cli(*words(data, out, *given, "--json"))
    assert again.code == 0, again.stderr
    assert len(lines(out)) == 20


def test_pairs_have_other_worse_answers_made(vlmend_cli, whole: Path, data: Path) -> None:
    """A file of preferences is taken for its good answers, each once."""
    out = data.parent / "again"
    done = vlmend_cli(*words(whole / "pairs-00000.jsonl", out, "--by", "weaken", "--limit", 3, "--json"))
    assert done.code == 0, done.stderr
    assert done.document["source"]["records"] == 3


def test_pictures_out_of_columns_become_files(vlmend_cli, whole: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    trl.write(read_pairs(whole)[:4], tmp_path / "four.parquet")
    given = ("--by", "inject", "--plausible", -50, "--format", "jsonl,parquet")
    done = vlmend_cli(*words(tmp_path / "four.parquet", tmp_path / "out", *given, "--json"))
    assert done.code == 0, done.stderr
    named = read_pairs(tmp_path / "out")
    assert named
    assert all(pair.image.parent == tmp_path / "out" / "images" for pair in named)
    held = read_pairs(tmp_path / "out" / "pairs-00000.parquet")
    assert [(one.id, one.rejected_spans) for one in held] == [(one.id, one.rejected_spans) for one in named]


def test_a_models_own_language_model_rewrites(vlmend_cli, tiny_folder, data: Path, tmp_path: Path) -> None:
    """A random one writes nonsense, which is dropped; `--words none` and no bounds keep it."""
    given = ("--by", "inject,weaken", "--words", "none", "--ratio", 0.01, 99, "--weakened-ratio", 0.01, 99)
    command = ["pairs", tiny_folder(), data, "--out", tmp_path / "out", *given, "--plausible", -99, "--limit", 3]
    done = vlmend_cli(*command, "--max-new-tokens", 8, "--kl", 0.001, "--json")
    assert done.code == 0, done.stderr
    assert done.document["rewriter"][0] == "own"
    assert done.document["pairs"] >= 3


def lacking(folder: Path, count: int) -> Path:
    """So many pictures that lack what is there in twice as many others, as their good answers say."""
    path = write(folder, 3 * count, 0, 3)
    records = json.loads(path.read_text())
    for number, record in enumerate(records):
        record["conversations"][1]["value"] = "a bed and a pillow" if number % 3 else "a bed and a clock"
    path.write_text(json.dumps(records))
    return path


def bare(data: Path, out: Path, *more: object) -> list[object]:
    """Without a step of noise."""
    return ["pairs", "demo", data, "--out", out, "--by", "weaken", "--tries", 1, "--max-new-tokens", 12, *more]


def test_the_step_of_noise_is_measured_once_and_recorded(vlmend_cli, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("vlmend.cli.dosing._LEAST", 5)
    data = lacking(tmp_path / "lacking", 5)
    out = tmp_path / "out"
    done = vlmend_cli(*bare(data, out, "--json"))
    assert done.code == 0, done.stderr
    curve = json.loads((out / "curve" / "curve.json").read_text())
    assert len(curve["curve"]) == 5
    assert curve["step"] == max(curve["curve"], key=lambda dose: dose["expected"]["mean"])["step"]
    assert done.document["noise"] == ["step", curve["step"], "pixels"]
    assert done.document["noise_from"] == curve["why"]
    assert curve["why"].startswith("measured on 5 pictures")

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("vlmend.evaluation.hallucination.dose.dose_curve", never)
    monkeypatch.setattr("vlmend.evaluation.hallucination.expecting.expecting", never)
    before = (out / "manifest.json").read_bytes()
    again = vlmend_cli(*bare(data, out))
    assert again.code == 0, again.stderr
    assert f"Step of noise: {curve['step']} (measured on 5 pictures" in again.stdout
    assert (out / "manifest.json").read_bytes() == before
    taken = vlmend_cli(*bare(data, tmp_path / "taken", "--curve", out / "curve" / "curve.json", "--json"))
    assert taken.document["noise"] == done.document["noise"]
    assert vlmend_cli(*bare(data, out, "--step", 650)).is_a_users_mistake("holds a run with noise=", "noise_from=")


@pytest.mark.slow
def test_two_processes_take_the_step_that_one_measured(data: Path) -> None:
    out = data.parent / "both-measured"
    given = map(str, bare(lacking(data.parent / "lacking", 20), out))
    command = [sys.executable, *both_processes(), "-m", "vlmend", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 0, done.stderr
    step = json.loads((out / "curve" / "curve.json").read_text())["step"]
    made = [json.loads(line) for line in lines(out)]
    assert {one["rank"] for one in made} == {0, 1}
    assert {one["notes"]["step"] for one in made if one["rejected"]} == {step}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((), "not measured: 0 pictures lack an object that is expected, and it takes 20"),
        (("--words", "none"), "not measured: no words that can be checked"),
    ],
)
def test_where_nothing_can_be_measured_it_is_said(vlmend_cli, data, tmp_path, given, why) -> None:
    done = vlmend_cli(*bare(data, tmp_path / "out", "--limit", 2, *given))
    assert done.code == 0, done.stderr
    assert f"Step of noise: 700 ({why})." in done.stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["noise"], manifest["noise_from"]) == (["step", 700, "pixels"], why)


@pytest.mark.parametrize("content", ['{"curve": []}', "[]", "{", '{"model": "demo", "step": 1000}', None])
def test_a_curve_that_is_none(vlmend_cli, data, tmp_path, content) -> None:
    path = tmp_path / "curve.json"
    if content is not None:
        path.write_text(content)
    said = "no curve.json of vlmend weaken" if content is not None else "No such file"
    assert vlmend_cli(*bare(data, tmp_path / "out", "--curve", path)).is_a_users_mistake("curve.json", said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--by", "magic"), "no way named 'magic'"),
        (("--by", ","), "--by names no way"),
        (("--kl", 1), "--step and --kl say the same thing"),
        (("--curve", "curve.json"), "--step and --curve say the same thing"),
        (("--where", "air"), "no place of noise"),
        (("--format", "pickle"), "no format of pairs named 'pickle'"),
        (("--answers", "long"), "no kind of answer named 'long'"),
        (("--rewriter", "nobody"), "--rewriter takes own, resample, a folder or a URL"),
        (("--words", "none"), "needs words that can be checked"),
        (("--words", "nowhere.txt"), "nowhere.txt"),
        (("--ratio", 2, 1), "--ratio takes least and most"),
        (("--device", "moon"), "'moon'"),
        (("--plausible", "nan"), "--plausible takes a number of nats, not nan"),
    ],
)
def test_what_cannot_be(vlmend_cli, data: Path, given, said) -> None:
    out = data.parent / "mistake"
    assert vlmend_cli(*words(data, out, *given)).is_a_users_mistake(said)
    assert not out.exists()


def test_an_endpoint_that_is_none_is_found_before_the_work(vlmend_cli, serve, data: Path) -> None:
    out = data.parent / "none"
    done = vlmend_cli(*words(data, out, "--by", "inject", "--rewriter", serve(lambda _: (200, b"<html>"))))
    assert done.is_a_users_mistake("no JSON")
    assert not out.exists()
