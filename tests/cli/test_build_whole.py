"""`vlmend build` from end to end on the demo world, questions and captions: killed once it ends with the same files,
and gives nothing away."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlmend.data.formats import plain, read
from vlmend.data.pictures import examples_of
from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, TEXT_LOCALITY, EditCase, Example, Probe
from vlmend.evaluation.text import normalised
from vlmend.models.pictures import content_hash, open_picture, save_picture
from vlmend.world.captions import caption
from vlmend.world.catalog import catalog
from vlmend.world.exemplars import draw, write, write_facts
from vlmend.world.render import Style, render

FILES = ("README.md", "train.json", "train.jsonl", "eval.json", "eval.jsonl", "statistics.json")


def write_captions(folder: Path, count: int, seed: int) -> Path:
    """Pictures with captions; neighbours share their second picture, and the first is there once more under another
    name."""
    cases: list[EditCase] = []
    second: Path | None = None
    for number, (image, _, scene) in enumerate(draw(count, seed)):
        file = save_picture(image, folder / f"{number}.png")
        if number % 2 == 0 or second is None:
            again = render(scene, Style(random.Random(number).getrandbits(32))).image()
            second = save_picture(again, folder / f"{number}_again.png")
        request = Example("describe the picture.", file, caption(scene, "short"))
        probe = Probe(IMAGE_GENERALITY, replace(request, image=second))
        cases.append(EditCase(f"caption-{number}", request, probes=(probe,)))
    copy = save_picture(open_picture(cases[0].request.image), folder / "copy.png")
    cases.append(replace(cases[0], id="copy", request=replace(cases[0].request, image=copy)))
    plain.write(cases, folder / "captions.jsonl")
    return folder / "captions.jsonl"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and captions of the demo world, words of its objects, and pools of what must stay."""
    folder = tmp_path_factory.mktemp("data")
    write(folder / "questions", 24, 5, again=True)
    write_captions(folder / "captions", 40, 21)
    write(folder / "pool", 12, 6)
    write_facts(folder / "facts", 20, 3)
    (folder / "words.txt").write_text("\n".join(catalog().kinds))
    return folder


def words(kind: str, data: Path, out: Path) -> list[str]:
    own = {"vqa": data / "questions" / "exemplars.jsonl", "caption": data / "captions" / "captions.jsonl"}[kind]
    named = ["--words", data / "words.txt"] if kind == "caption" else []
    pools = ["--text-locality", data / "facts" / "exemplars.jsonl"]
    pools += ["--image-locality", data / "pool" / "exemplars.jsonl"]
    given = ["build", "demo", own, "--kind", kind, *named, "--out", out, *pools, "--draws", 1]
    return [sys.executable, "-m", "vlmend", *map(str, given)]


def killed(command: list[str], log: Path, records: int) -> None:
    """Start a command and kill it when its log has so many records."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    start = time.monotonic()
    while (log.read_bytes().count(b"\n") if log.exists() else 0) < records:
        assert process.poll() is None
        assert time.monotonic() - start < 300
        time.sleep(0.002)
    process.kill()
    process.wait()


@pytest.mark.parametrize("kind", ["vqa", "caption"])
def test_killed_and_resumed_it_is_the_same_and_gives_nothing_away(kind: str, data: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    subprocess.run(words(kind, data, whole), check=True, capture_output=True)
    killed(words(kind, data, resumed), resumed / "records.jsonl", 33)
    assert not (resumed / "README.md").exists()
    subprocess.run(words(kind, data, resumed), check=True, capture_output=True)
    for name in FILES:
        mine, other = ((one / name).read_text().replace(str(one), "OUT") for one in (resumed, whole))
        assert mine == other, name
    check(whole, kind)


def check(folder: Path, kind: str) -> None:
    found = json.loads((folder / "statistics.json").read_text())
    sides = [read(folder / f"{side}.jsonl") for side in ("train", "eval")]
    assert found["clean"] is True
    assert all(sides)
    assert found["asked"] == sum(map(len, sides)) + sum(found["dropped"]["asked"].values())
    assert (kind == "caption") == ("a record before it asks the same" in found["dropped"]["asked"])
    shown = [
        {content_hash(open_picture(p)) for c in side for e in examples_of(c) for p in e.pictures} for side in sides
    ]
    assert not shown[0] & shown[1]
    for case in (case for side in sides for case in side):
        own = {normalised(case.request.answer or ""), normalised(case.rejected or "")}
        for probe in (*case.probes_of(TEXT_LOCALITY), *case.probes_of(IMAGE_LOCALITY)):
            assert normalised(probe.example.answer or "") not in own
        for probe in case.probes_of(IMAGE_GENERALITY):
            assert all(premise.image == probe.example.image for premise in probe.premises)
    if kind == "vqa":
        assert any(p.premises for side in sides for case in side for p in case.probes_of(IMAGE_GENERALITY))
        assert found["records"]["pictured"]


def test_other_pools_are_another_run(data: Path, tmp_path: Path, vlmend_cli: Callable[..., Any]) -> None:
    """The same questions with another answer, or about other pixels, are another pool."""
    pool = read(data / "pool" / "exemplars.jsonl")[:3]
    plain.write(pool, data / "pool" / "few.jsonl")
    own, out = data / "questions" / "exemplars.jsonl", tmp_path / "bench"
    args = ("build", "demo", own, "--out", out, "--limit", 6, "--draws", 0, "--train", 0)
    more = ("--image-locality", data / "pool" / "few.jsonl")
    assert vlmend_cli(*args, *more).code == 0
    assert vlmend_cli(*args, *more).code == 0
    plain.write([replace(pool[0], request=replace(pool[0].request, answer="else")), *pool[1:]], more[1])
    assert vlmend_cli(*args, *more).is_a_users_mistake("other image-locality")
    plain.write(pool, more[1])
    place = Path(str(pool[0].request.image))
    before = place.read_bytes()
    save_picture(open_picture(place).rotate(90), place)
    assert vlmend_cli(*args, *more).is_a_users_mistake("other image-locality")
    place.write_bytes(before)
