"""`vlmend measure` on benchmarks' files as published, with and without a judge: a real endpoint on loopback."""

from __future__ import annotations

import base64
import importlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from vlmend.data.formats import amber, coco, object_halbench
from vlmend.data.questions import Description, ObjectQuestion, YesNoQuestion

if TYPE_CHECKING:
    from loopback import Served

Picture = Callable[[int], Image.Image]


@pytest.fixture
def measure(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """`measure(*more)` measures a tiny model into one folder."""
    return lambda *more, out="run": vlmend_cli(
        "measure", tiny_folder(), "--out", tmp_path / out, "--max-new-tokens", 5, *more
    )


def saved(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def mmvet(tmp_path: Path, picture: Picture) -> Path:
    """Three questions of two capabilities; the pictures are in a folder of their own."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        picture(number).save(tmp_path / "images" / f"v1_{number}.png")
    capabilities = (["ocr", "math"], ["rec"], ["rec"])
    questions = {
        f"v1_{number}": {
            "imagename": f"v1_{number}.png",
            "question": f"what is {number} ?",
            "answer": "red<AND>blue",
            "capability": some,
        }
        for number, some in enumerate(capabilities)
    }
    return saved(tmp_path / "mm-vet.json", questions)


@pytest.fixture
def judge(served: Served) -> tuple[object, ...]:
    served.say = lambda body: (200, "0.5")
    return ("--judge", served.url, "--judge-model", "gpt-4")


def test_a_judged_suite(
    measure: Callable[..., Any], mmvet: Path, judge: tuple[object, ...], served: Served, tmp_path: Path
) -> None:
    asked = ("--suite", "mmvet", "--file", mmvet, "--images", tmp_path / "images")
    outcome = measure(*asked, *judge, "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.document["suites"]["mmvet"]
    assert (found["scores"]["score"]["mean"], found["n"], found["rated"], found["failed"]) == (0.5, 3, 3, [])
    assert found["judge"] == {
        "model": "gpt-4",
        "served": ["judge-0613"],
        "temperature": 0.0,
        "max_tokens": 8,
        "runs": 1,
    }
    assert set(found["kinds"]) == {"ocr", "math", "rec"}
    assert set(found["combinations"]) == {"math+ocr", "rec"}
    said = [json.loads(line)["response"] for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    bodies = [body["messages"][-1]["content"] for _, _, body in served.asked]
    assert all(any(f"Given answer: {text}\n" in body for body in bodies) for text in said)

    # Without a network, from what is in the folder, and from there into another.
    again = measure(*asked, "--judge-model", "gpt-4", "--json")
    assert again.document["suites"] == outcome.document["suites"]
    replies = ("--replies", tmp_path / "run" / "judge.jsonl")
    again = measure(*asked, "--judge-model", "gpt-4", *replies, "--json", out="other")
    assert again.document["suites"] == outcome.document["suites"]
    assert len(served.asked) == 3

    # Another judge judges the same answers; the two results are not compared.
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "mmvet.json").write_text((tmp_path / "run" / "mmvet.json").read_text())
    same = measure(*asked, "--judge-model", "gpt-4", "--against", tmp_path / "first", "--json")
    assert same.document["against"]["gains"]["mmvet"]["score"]["mean"] == 0.0
    assert "difference from the other run" in measure(*asked, *judge, "--against", tmp_path / "first").stdout
    other = measure(*asked, *judge[:2], "--judge-model", "gpt-5", "--against", tmp_path / "first")
    assert "judge model gpt-4 and gpt-5" in other.stderr
    assert other.code == 2


def test_what_is_not_judged(
    measure: Callable[..., Any], mmvet: Path, judge: tuple[object, ...], served: Served, tmp_path: Path
) -> None:
    """One failure is said and asked for again; an endpoint that is down keeps the answers."""
    asked = ("--suite", "mmvet", "--file", mmvet, "--images", tmp_path / "images", *judge)
    served.say = lambda body: (503, {})
    down = measure(*asked)
    assert down.is_a_users_mistake("mmvet: not one answer could be judged", "HTTP 503", "keeps 3 finished records")
    assert not (tmp_path / "run" / "metrics.json").exists()
    served.say = lambda body: (200, "no grade" if "what is 1 ?" in body["messages"][-1]["content"] else "1.0")
    part = measure(*asked)
    assert part.code == 0, part.stderr
    assert "mmvet: 1 reply is missing and in no score; the same command asks again: the reply has no" in part.stdout
    before = len(served.asked)
    served.say = lambda body: (200, "0.0")
    whole = measure(*asked, "--json").document["suites"]["mmvet"]
    assert (whole["rated"], len(served.asked) - before) == (3, 1)
    assert whole["scores"]["score"]["mean"] == pytest.approx(2 / 3)


def test_the_key_is_in_no_file(
    measure: Callable[..., Any],
    mmvet: Path,
    judge: tuple[object, ...],
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    asked = ("--suite", "mmvet", "--file", mmvet, "--images", tmp_path / "images", *judge, "--judge-key", "JUDGE_KEY")
    outcome = measure(*asked)
    assert outcome.code == 0, outcome.stderr
    assert served.asked[0][1]["Authorization"] == "Bearer sk-very-secret"
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl")]
    assert {path.name for path in written} >= {"run.json", "records.jsonl", "judge.jsonl", "mmvet.json"}
    assert not any("sk-very-secret" in path.read_text() for path in written)
    assert "sk-very-secret" not in outcome.stdout + outcome.stderr


def test_several_suites(
    measure: Callable[..., Any],
    mmvet: Path,
    judge: tuple[object, ...],
    served: Served,
    tmp_path: Path,
    picture: Picture,
) -> None:
    """Each with its own files, roles and pictures; MMHal's are called as at their source."""
    picture(0).save(tmp_path / "7206072054_c53d53b97d_o.jpg")
    hydrant = {
        "question_type": "attribute",
        "image_id": "df62a56fdc1bb12b",
        "image_src": "https://c4.staticflickr.com/8/7211/7206072054_c53d53b97d_o.jpg",
        "image_content": ["Fire hydrant"],
        "question": "what colour is it ?",
        "gt_answer": "yellow",
        "model_answer": "",
    }
    mmhal = saved(tmp_path / "response_template.json", [hydrant])
    (tmp_path / "wild").mkdir()
    asked = [{"question_id": 0, "image": "001.jpg", "text": "what is it ?", "category": "conv"}]
    questions = lines(tmp_path / "wild" / "questions.jsonl", asked)
    context = lines(tmp_path / "wild" / "ours.jsonl", [{"image": "001.jpg", "caption": "A crater."}])
    lines(tmp_path / "wild" / "answers_gpt4.jsonl", [{"question_id": 0, "text": "A crater."}])
    picture(1).save(tmp_path / "wild" / "001.jpg")

    def say(body: dict[str, Any]) -> tuple[int, str]:
        text = body["messages"][-1]["content"]
        return 200, "8 4" if "marks" in text else "Rating: 2" if "Rating" in text else "1.0"

    served.say = say
    outcome = measure(
        *("--suite", "mmvet,llava-bench,mmhal", "--file", f"mmvet={mmvet}", "--file", f"llava-bench={questions}"),
        *("--file", f"llava-bench.context={context}", "--file", f"mmhal={mmhal}"),
        *("--images", f"mmvet={tmp_path / 'images'}", *judge, "--json"),
    )
    assert outcome.code == 0, outcome.stderr
    scores = {name: one["scores"]["score"]["mean"] for name, one in outcome.document["suites"].items()}
    assert scores == {"mmvet": 1.0, "llava-bench": 0.5, "mmhal": 2.0}
    assert outcome.document["suites"]["mmhal"]["scores"]["hallucination"]["mean"] == 1.0
    table = measure("--suite", "mmhal", "--file", mmhal, *judge, out="mmhal").stdout
    assert "2.0 of 6" in table
    assert "attribute" in table


def test_amber(measure: Callable[..., Any], tmp_path: Path, picture: Picture) -> None:
    """Both parts out of one file of queries; the others lie in the folder above."""
    (tmp_path / "query").mkdir()
    (tmp_path / "image").mkdir()
    for number in (1, 2):
        picture(number).save(tmp_path / "image" / f"AMBER_{number}.jpg")
    questions = amber.Questions(
        (Description(1, "AMBER_1.jpg", "describe it", ("dog",), ("cat",)),),
        (
            YesNoQuestion(1005, "AMBER_1.jpg", "is it open ?", "yes", ("attribute", "state")),
            YesNoQuestion(1006, "AMBER_2.jpg", "is there a cat ?", "no", ("existence",)),
        ),
    )
    queries = tmp_path / "query" / "query_all.json"
    amber.write(questions, queries, tmp_path / "annotations.json")
    amber.write_associations({"dog": ("puppy",), "cat": ()}, tmp_path / "relation.json")
    asked = ("--suite", "amber", "--file", queries, "--images", tmp_path / "image")
    outcome = measure(*asked, "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.document["suites"]["amber"]
    assert (found["protocol"], found["describing"]["n"], found["yes_no"]["scores"]["n"]) == ("amber", 1, 2)
    assert set(found["yes_no"]["kinds"]) == {"attribute", "state", "existence"}
    table = measure(*asked, "--protocol", "amber-code").stdout
    assert "describing chair" in table
    assert "yes/no f1" in table
    assert (found["score"] is None) == (found["describing"]["chair"]["mean"] is None)
    again = measure(*asked, "--file", f".relation={tmp_path / 'no.json'}")
    assert again.is_a_users_mistake("no.json: cannot be read")
    assert measure(*asked, "--protocol", "x").is_a_users_mistake("no AMBER protocol named 'x'")


def test_chair_on_coco(measure: Callable[..., Any], tmp_path: Path, picture: Picture) -> None:
    """From a table of objects, and from COCO's instances with the captions beside them."""
    (tmp_path / "val2014").mkdir()
    for number in (42, 73):
        picture(number).save(tmp_path / "val2014" / f"COCO_val2014_{number:012}.jpg")
    coco.write_objects({42: ["dog"], 73: ["person", "car"]}, tmp_path / "objects.json")
    pictures = ("--images", tmp_path / "val2014")
    outcome = measure("--suite", "chair", "--file", tmp_path / "objects.json", *pictures, "--json")
    assert outcome.code == 0, outcome.stderr
    assert (outcome.document["suites"]["chair"]["n"], outcome.document["suites"]["chair"]["recall"]["n"]) == (2, 3)
    instances = {
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "bus"}],
        "annotations": [{"image_id": 42, "category_id": 1}, {"image_id": 99, "category_id": 2}],
    }
    path = saved(tmp_path / "instances_val2014.json", instances)
    saved(tmp_path / "captions_val2014.json", {"annotations": [{"image_id": 42, "caption": "A dog in a car."}]})
    asked = ("--suite", "chair", "--file", path, *pictures)
    missing = measure(*asked, out="coco")
    assert missing.is_a_users_mistake("1 image is missing", "COCO_val2014_000000000099.jpg")
    found = measure(*asked, "--skip-missing", "--json", out="coco").document["suites"]["chair"]
    assert (found["n"], found["recall"]["n"]) == (1, 2)
    # A damaged one is left out before the limit counts; behind the limit none is opened.
    asked = ("--suite", "chair", "--file", tmp_path / "objects.json", *pictures, "--limit", 1)
    damaged = tmp_path / "val2014" / "COCO_val2014_000000000042.jpg"
    damaged.write_text("no picture")
    assert measure(*asked, out="one").is_a_users_mistake("objects.json: question 42:", damaged.name)
    found = measure(*asked, "--skip-missing", "--json", out="one").document["suites"]["chair"]
    assert (found["n"], found["recall"]["n"]) == (1, 2)
    picture(42).save(damaged)
    damaged.with_name("COCO_val2014_000000000073.jpg").write_text("no picture")
    assert measure(*asked, out="first").code == 0


def test_object_halbench(
    measure: Callable[..., Any],
    served: Served,
    tmp_path: Path,
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The objects of an answer are listed by an endpoint, or by the words of the list."""
    module = importlib.import_module("vlmend.evaluation.hallucination.object_halbench")
    monkeypatch.setattr(module, "_SHORT", -1)  # a random model says little

    def packed(number: int) -> bytes:
        content = io.BytesIO()
        picture(number).save(content, "PNG")
        return content.getvalue()

    questions = [ObjectQuestion(number, "describe this picture", packed(number)) for number in (7, 8)]
    path = tmp_path / "obj_halbench.jsonl"
    object_halbench.write(questions, path)
    coco.write_objects({7: ["dog"], 8: ["cat"]}, tmp_path / "objects.json")
    served.say = lambda body: (200, '```json\n["dogs", "a red cat"]\n```')
    asked = ("--suite", "object-halbench", "--file", path)
    outcome = measure(*asked, "--judge", served.url, "--judge-model", "extractor", "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.document["suites"]["object-halbench"]
    assert (found["mention"]["mean"], found["response"]["mean"], found["failed"]) == (0.5, 1.0, [])
    assert found["extractor"].startswith("extractor (judge-0613), temperature 0, prompt vlmend-")
    assert "JSON list" in served.asked[0][2]["messages"][-1]["content"]
    served.say = lambda body: (200, "I see nothing.")
    part = measure(*asked, "--judge", served.url, "--judge-model", "other", out="other")
    assert part.is_a_users_mistake("object-halbench: no answer's objects could be had: the reply is not one JSON list")
    alone = measure(*asked, "--json", out="alone").document["suites"]["object-halbench"]
    assert alone["extractor"] == "listed-words"
    record = {"image_id": 9, "question": "x", "image": base64.b64encode(b"no picture").decode()}
    bad = lines(tmp_path / "bad.jsonl", [record | {"image_id": 7}])
    assert measure(*asked[:3], bad, out="bad").is_a_users_mistake("bad.jsonl, record 0, field 'image': is no picture")
    none = measure(*asked[:3], bad, "--skip-missing", out="bad")
    assert none.is_a_users_mistake("none of its pictures can be read")
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text(bad.read_text() + path.read_text())
    some = measure(*asked[:3], mixed, "--skip-missing", "--json", out="mixed")
    assert some.document["suites"]["object-halbench"]["n"] == 2
    bad = lines(tmp_path / "bad.jsonl", [record])
    assert measure(*asked[:3], bad, out="bad").is_a_users_mistake("it is not known what picture 9 shows")


def test_missing_pictures_of_a_judged_suite(
    measure: Callable[..., Any], mmvet: Path, judge: tuple[object, ...], tmp_path: Path
) -> None:
    (tmp_path / "images" / "v1_1.png").unlink()
    asked = ("--suite", "mmvet", "--file", mmvet, "--images", tmp_path / "images", *judge)
    assert measure(*asked).is_a_users_mistake("1 image is missing", "v1_1.png")
    assert measure(*asked, "--skip-missing", "--json").document["suites"]["mmvet"]["n"] == 2
    assert measure(*asked[:4], *judge, "--skip-missing", out="x").is_a_users_mistake("none of its pictures is in")
