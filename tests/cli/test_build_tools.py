"""`vlmend build` with all that it can use: an endpoint or a chat model that rewords, a pipeline that paints, and a CLIP
that judges what was painted; interrupted anywhere it ends with the same files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tiny_models.painting import save_chat, save_clip, save_pipeline
from vlmend.build.pictures import Diffused, Scorer
from vlmend.build.rewording import Reworder, flaw
from vlmend.data.formats import plain, read
from vlmend.data.formats.notes import notes_of
from vlmend.data.records import IMAGE_GENERALITY, TEXT_GENERALITY, EditCase, Example
from vlmend.errors import VlmendError
from vlmend.models.chat import FolderChat
from vlmend.models.pictures import content_hash, open_picture, save_picture

if TYPE_CHECKING:
    from PIL import Image

    from loopback import Served

FILES = ("README.md", "eval.jsonl", "statistics.json")
ASKED, KNOWN = "what has a horn, number {} ?", "where is number {} ?"
KEPT = {"r0": 0, "r1": 2}  # which of three pictures is the first that is recognised; of r2 none is
SAID = ("a picture of the cup", "three small birds")  # of r0 to r2, and of r3


@dataclass(frozen=True)
class Tools:
    """Folders of tiny models, and a file of questions that the one that is asked answers wrongly."""

    model: str
    pipeline: str
    clip: str
    chat: str
    data: Path
    painted: dict[str, list[Image.Image]]


@pytest.fixture(scope="module")
def tools(
    tiny_folder: Callable[..., Path],
    tiny: Callable[..., Any],
    picture: Callable[[int], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tools:
    """Another question on each picture is answered rightly, and so it is of the painted pictures that are to be kept:
    of these every answer but that of the others counts as right."""
    folder = tmp_path_factory.mktemp("tools")
    pipeline, clip = save_pipeline(folder / "pipeline"), save_clip(folder / "clip")
    painter, scorer = Diffused(pipeline, steps=2), Scorer(clip)
    first = painter.painted(SAID[0], 0)
    said = SAID if scorer.likeliest(first, SAID) == 0 else SAID[::-1]
    painted: dict[str, list[Image.Image]] = {}
    cases: list[EditCase] = []
    for number in range(4):
        name = f"r{number}"
        caption = said[number == 3]
        rng = random.Random(f"0/{name}/picture")
        painted[name] = [painter.painted(caption, rng.getrandbits(31)) for _ in range(3)]
        file = save_picture(picture(number), folder / f"{number}.png")
        known = KNOWN.format(number)
        right = [tiny().answer(file, known, max_new_tokens=4)]
        right += [tiny().answer(painted[name][KEPT[name]], known, max_new_tokens=4)] if name in KEPT else []
        wrong = {tiny().answer(one, known, max_new_tokens=4) for one in painted[name][: KEPT.get(name, 3)]}
        assert not wrong & {*right}
        notes = notes_of({"shown": caption})
        cases.append(EditCase(name, Example(ASKED.format(number), file, f"unicorn {number}"), notes=notes))
        cases.append(EditCase(f"{name}-known", Example(known, file, right[0], tuple(right[1:])), notes=notes))
    plain.write(cases, folder / "own.jsonl")
    return Tools(str(tiny_folder()), pipeline, clip, save_chat(folder / "chat"), folder / "own.jsonl", painted)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmend.build.pictures.Diffused", partial(Diffused, steps=2))


def words(tools: Tools, out: Path, *more: object) -> list[str]:
    given = ["build", tools.model, tools.data, "--out", out, "--draws", 0, "--train", 0, "--max-new-tokens", 4, *more]
    return list(map(str, given))


def seed_of(name: str) -> int:
    """Of a record's first rewording."""
    return random.Random(f"0/{name}/words").getrandbits(31)


class Endpoint:
    """Thinks, quotes, and refuses one record's first task; after so many tasks it wants another key."""

    def __init__(self) -> None:
        self.left = 100

    def __call__(self, body: dict[str, Any]) -> tuple[int, str]:
        self.left -= 1
        if self.left < 0:
            return 401, ""
        if body["seed"] == seed_of("r2"):
            return 200, "I cannot do that as an AI model."
        question = body["messages"][0]["content"].split("Question: ")[-1]
        return 200, f'<think>\nhm\n</think>\n\n**Reworded:** "so, {question}"'


def test_endpoint_painter_and_scorer_interrupted_anywhere(
    vlmend_cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    served: Served,
    tools: Tools,
    tmp_path: Path,
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    endpoint = Endpoint()
    served.say = endpoint
    with_all = ("--rephrase", served.url, "--pictures", tools.pipeline, "--caption", "shown", "--score", tools.clip)
    outcome = vlmend_cli(*words(tools, whole, *with_all))
    assert outcome.code == 0, outcome.stderr

    cases = {case.id: case for case in read(whole / "eval.jsonl")}
    assert sorted(cases) == ["r0", "r1", "r2", "r3"]
    for number, case in enumerate(cases[f"r{n}"] for n in range(4)):
        (reworded,) = case.probes_of(TEXT_GENERALITY)
        assert reworded.example.question == f"so, {ASKED.format(number)}"
        shown = [open_picture(probe.example.image) for probe in case.probes_of(IMAGE_GENERALITY)]
        wanted = [tools.painted[case.id][KEPT[case.id]]] if case.id in KEPT else []
        assert [one.tobytes() for one in shown] == [one.tobytes() for one in wanted]
    for name, at in KEPT.items():
        (probe,) = cases[name].probes_of(IMAGE_GENERALITY)
        assert Path(str(probe.example.image)).name == f"{content_hash(tools.painted[name][at])}.png"
        assert [premise.question for premise in probe.premises] == [KNOWN.format(name[1:])]
    found = json.loads((whole / "statistics.json").read_text())
    assert found["dropped"]["reworded"] == {"a refusal": 1}
    assert found["dropped"]["pictured"] == {
        "the model does not recognise it": KEPT["r1"] + 3,
        "another caption is likelier": 3,
    }
    assert found["records"]["pictured"]["r3"] == ["another caption is likelier"] * 3
    assert "a refusal" in (whole / "README.md").read_text()

    endpoint.left = 3  # the one that finds out whether it is there is the first
    assert vlmend_cli(*words(tools, cut, *with_all)).is_a_users_mistake("HTTP 401")
    endpoint.left = 100
    count = 0

    def painted(self: Diffused, caption: str, seed: int) -> Image.Image:
        nonlocal count
        count += 1
        if count == 3:
            raise VlmendError("the lights went out")
        return before(self, caption, seed)

    before = Diffused.painted
    with monkeypatch.context() as patch:
        patch.setattr(Diffused, "painted", painted)
        assert vlmend_cli(*words(tools, cut, *with_all)).is_a_users_mistake("the lights went out")
    assert not (cut / "eval.jsonl").exists()
    assert vlmend_cli(*words(tools, cut, *with_all)).code == 0
    for name in FILES:
        mine, other = ((one / name).read_text().replace(str(one), "OUT") for one in (cut, whole))
        assert mine == other, name
    mine, other = ({path.name: path.read_bytes() for path in (one / "images").iterdir()} for one in (cut, whole))
    assert mine == other


def test_a_chat_model_in_a_folder_rewords(vlmend_cli: Callable[..., Any], tools: Tools, tmp_path: Path) -> None:
    """What it says of each question by itself is what is in the benchmark, and what is wrong with that is counted."""
    out = tmp_path / "bench"
    asked = ("what is there ?", "what colour is the cup ?", "where is it ?", "is the cup there ?")
    files = (case.request.image for case in read(tools.data)[::2])
    own = [EditCase(f"c{n}", Example(*one, "unicorn")) for n, one in enumerate(zip(asked, files, strict=True))]
    plain.write(own, tmp_path / "own.jsonl")
    outcome = vlmend_cli(*words(replace(tools, data=tmp_path / "own.jsonl"), out, "--rephrase", tools.chat))
    assert outcome.code == 0, outcome.stderr
    chat = Reworder(FolderChat(tools.chat, temperature=0.7, max_new_tokens=64))
    cases = read(out / "eval.jsonl")
    found = json.loads((out / "statistics.json").read_text())["records"].get("reworded", {})
    flaws: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for case in cases:
        rng = random.Random(f"0/{case.id}/words")
        while case.id not in texts and len(flaws.get(case.id, [])) < 3:
            (text,) = chat.reworded([case.request.question], [rng])
            assert text is not None
            if wrong := flaw(case.request, text, free=True):
                flaws.setdefault(case.id, []).append(wrong)
            else:
                texts[case.id] = text
    assert texts
    assert flaws
    assert {case.id: p.example.question for case in cases for p in case.probes_of(TEXT_GENERALITY)} == texts
    assert found == flaws


def test_all_models_are_where_the_one_that_is_asked_is(
    vlmend_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tools: Tools, tmp_path: Path
) -> None:
    plans: list[Any] = []

    def stop(name: str, device: str) -> None:
        raise VlmendError(f"{name} is not loaded on {device}")

    monkeypatch.setattr("vlmend.cli.build.placed", lambda device: {"cuda": "cuda:3"}[device])
    monkeypatch.setattr("vlmend.build.benchmark.Plan.check", lambda self, *_: plans.append(self))
    monkeypatch.setattr("vlmend.cli.build.load_model", stop)
    more = ("--rephrase", tools.chat, "--pictures", tools.pipeline, "--score", tools.clip, "--device", "cuda")
    assert vlmend_cli(*words(tools, tmp_path / "bench", *more)).is_a_users_mistake("is not loaded on cuda")
    (plan,) = plans
    assert plan.painter.device == plan.scorer.device == plan.rephraser.chat.device == "cuda:3"


@pytest.mark.parametrize(("limit", "skipped"), [(None, ["r0-known", "r2"]), (3, ["r0-known"])])
def test_what_was_not_read_is_counted_and_the_command_says_so(
    vlmend_cli: Callable[..., Any], tools: Tools, tmp_path: Path, limit: int | None, skipped: list[str]
) -> None:
    cases = read(tools.data)
    records = [json.loads(line) for line in tools.data.read_text().splitlines()]
    for record in records:
        missing = record["id"] in ("r0-known", "r2")
        record["image"] = "gone.png" if missing else str(tools.data.parent / record["image"])
    own, pool = tmp_path / "own.jsonl", tmp_path / "pool.jsonl"
    own.write_text("".join(json.dumps(record) + "\n" for record in records))
    other = [
        {"image": records[0]["image"], "question": "is it ?", "answer": "no"},
        {"image": "x.png", "question": "?", "answer": "a"},
    ]
    pool.write_text("".join(json.dumps(record) + "\n" for record in other))
    out = tmp_path / "bench"
    args = ["build", tools.model, own, "--out", out, "--draws", 0, "--max-new-tokens", 4, "--image-locality", pool]
    args += ["--limit", limit] if limit else []
    if limit is None:
        assert vlmend_cli(*args).is_a_users_mistake("--skip-missing")
    outcome = vlmend_cli(*args, "--skip-missing", "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.document
    assert found["asked"] == (limit or len(cases) - len(skipped))
    assert list(found["records"]["read"]) == skipped
    assert found["dropped"]["read"] == {
        "picture missing or not read": len(skipped),
        "picture missing or not read, of --image-locality": 1,
    }
    card = (out / "README.md").read_text()
    assert f"| picture missing or not read | {len(skipped)} |" in card
    made = next(line for line in card.splitlines() if line.startswith("Made by"))
    assert "--skip-missing" in made
    assert (f"--limit {limit}" in made) == bool(limit)
