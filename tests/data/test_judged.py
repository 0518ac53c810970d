"""Readers of the judged benchmarks' files: what they read, what they write again, and what they refuse."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.formats import llava_bench, mmhal, mmvet
from vlmend.data.questions import Answer, OpenQuestion
from vlmend.errors import DataError

MMVET = {
    "v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
    "v1_1": {"imagename": "v1_0.png", "question": "What is d?", "answer": "8", "capability": ["rec"], "added_in": "v1"},
}
# The first two records of the published file.
MMHAL = [
    {
        "question_type": "attribute",
        "question_topic": "outdoor",
        "image_id": "df62a56fdc1bb12b",
        "image_src": "https://c4.staticflickr.com/8/7211/7206072054_c53d53b97d_o.jpg",
        "image_content": ["Fire hydrant"],
        "question": "What color is the fire hydrant cap in the picture?",
        "gt_answer": "The color of the fire hydrant cap in the image is yellow.",
        "model_answer": "",
    },
    {
        "question_type": "adversarial",
        "question_topic": "outdoor",
        "image_id": "5b18b22f53ccc661",
        "image_src": "https://farm2.staticflickr.com/5443/7413067568_06a8d1eb64_o.jpg",
        "image_content": ["Door", "Building"],
        "question": "Who is sitting on the bench?",
        "gt_answer": "No one is sitting on the bench.",
        "model_answer": "",
    },
]
WILD = (
    [{"question_id": 0, "image": "001.jpg", "text": "What is this sight?", "category": "conv"}],
    [{"id": "001", "image": "001.jpg", "caption": "An aerial view of a crater."}],
    [{"question_id": 0, "text": "It is a crater.", "answer_id": "a", "model_id": "gpt-4"}],
)
COCO = (
    [{"question_id": 3, "image": "000000441147.jpg", "text": "What is it?", "category": "detail"}],
    [
        {
            "id": "000000441147",
            "image": "COCO_val2014_000000441147.jpg",
            "captions": ["Two old suitcases.", "A stack of luggage."],
            "instances": [{"category": "suitcase", "bbox": [0.1, 0.2, 0.5, 0.75]}],
        }
    ],
    [{"question_id": 3, "text": "Suitcases.", "category": "detail"}],
)


def saved(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(path, records):
    return saved(path, "".join(json.dumps(record) + "\n" for record in records))


def three(folder, records):
    names = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")
    return [lines(folder / name, some) for name, some in zip(names, records, strict=True)]


def refused(problem, read, *paths):
    with pytest.raises(DataError) as caught:
        read(*paths)
    message = str(caught.value)
    assert message == f"{paths[0]}{problem}"


def test_mmvet(tmp_path):
    first, second = mmvet.read(saved(tmp_path / "mm-vet.json", MMVET))
    assert first == OpenQuestion("v1_0", "v1_0.png", "What is x?", "-1<AND>-5", ("ocr", "math"))
    assert second.notes == (("added_in", '"v1"'),)
    mmvet.write([first, second], tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == MMVET


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, ": at least one question was expected"),
        ([], ": an object was expected, not list"),
        ({"v1_0": "x"}, ", record 0, field 'v1_0': an object was expected, not 'x'"),
        ({"v1_0": MMVET["v1_0"] | {"answer": 8}}, ", record 0, field 'v1_0.answer': a string was expected, not 8"),
        ({"v1_0": MMVET["v1_0"] | {"capability": []}}, ", record 0, field 'v1_0.capability': is missing"),
    ],
)
def test_mmvet_refuses(tmp_path, content, problem):
    refused(problem, mmvet.read, saved(tmp_path / "mm-vet.json", content))


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=1, unique_by=lambda one: one[0]))
def test_mmvet_answers_come_back(tmp_path_factory, answers):
    path = tmp_path_factory.mktemp("answers") / "model.json"
    given_answers = [Answer(f"v1_{key}", text) for key, text in answers]
    mmvet.write_answers(given_answers, path)
    assert mmvet.read_answers(path) == given_answers


def test_mmhal(tmp_path):
    path = saved(tmp_path / "response_template.json", MMHAL)
    questions = mmhal.read(path)
    assert [one.id for one in questions] == [0, 1]
    assert (questions[1].kinds, questions[1].context) == (("adversarial",), "Door, Building")
    assert mmhal.source_name(questions[0]) == "7206072054_c53d53b97d_o.jpg"
    refused(", record 0, field 'model_answer': is empty", mmhal.read_answers, path)
    mmhal.write(questions, tmp_path / "again.json", [Answer(0, "yellow"), Answer(1, "no one")])
    assert mmhal.read(tmp_path / "again.json") == questions
    assert [one.text for one in mmhal.read_answers(tmp_path / "again.json")] == ["yellow", "no one"]
    mmhal.write(questions, tmp_path / "template.json")
    assert json.loads((tmp_path / "template.json").read_text()) == [dict(sorted_like(one)) for one in MMHAL]


def sorted_like(record):
    names = ("question_type", "image_id", "image_content", "question", "gt_answer")
    rest = [name for name in record if name not in (*names, "model_answer")]
    return [(name, record[name]) for name in (*names, *rest, "model_answer")]


def test_mmhal_refuses(tmp_path):
    refused(": at least one question was expected", mmhal.read, saved(tmp_path / "x.json", []))
    bad = [MMHAL[0] | {"gt_answer": ""}]
    refused(", record 0, field 'gt_answer': is empty", mmhal.read, saved(tmp_path / "y.json", bad))


def test_llava_bench_in_the_wild(tmp_path):
    (found,) = llava_bench.read(*three(tmp_path, WILD))
    assert found == OpenQuestion(
        0, "001.jpg", "What is this sight?", "It is a crater.", ("conv",), "An aerial view of a crater."
    )


def test_llava_bench_on_coco(tmp_path):
    (found,) = llava_bench.read(*three(tmp_path, COCO))
    assert found.context == "Two old suitcases.\nA stack of luggage.\nsuitcase: [0.1, 0.2, 0.5, 0.75]"


def test_llava_bench_refuses(tmp_path):
    asked, contexts, references = three(tmp_path, WILD)
    empty = lines(tmp_path / "other.jsonl", [WILD[1][0] | {"image": "002.jpg"}])
    problem = f", record 0, field 'image': {empty} does not say what '001.jpg' shows (line 1)"
    refused(problem, llava_bench.read, asked, empty, references)
    empty = lines(tmp_path / "answers.jsonl", [WILD[2][0] | {"question_id": 5}])
    problem = f", record 0, field 'question_id': {empty} has no answer to 0 (line 1)"
    refused(problem, llava_bench.read, asked, contexts, empty)
    odd = lines(tmp_path / "odd.jsonl", [WILD[0][0] | {"category": "chat"}])
    problem = ", record 0, field 'category': 'conv' or 'detail' or 'complex' was expected, not 'chat' (line 1)"
    refused(problem, llava_bench.read, odd, contexts, references)


def test_rules(tmp_path):
    one = {"role": "Assistant", "prompt": "Compare."}
    whole = {"conv": one, "detail": one, "complex": one}
    path = saved(tmp_path / "rule.json", {**whole, **{f"llava_bench_{name}": one | {"prompt": "W"} for name in whole}})
    assert llava_bench.read_rules(path)["conv"] == ("Assistant", "W")
    assert llava_bench.read_rules(path, wild=False)["conv"] == ("Assistant", "Compare.")
    refused(", field 'llava_bench_conv': is missing", llava_bench.read_rules, saved(tmp_path / "r.json", whole))
