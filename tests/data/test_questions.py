"""Readers of the hallucination benchmarks' files: what they read, what they write again, and what they refuse."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.formats import amber, answers, coco, object_halbench, pope
from vlmend.data.questions import Answer, Description, ObjectQuestion, YesNoQuestion
from vlmend.errors import DataError

# The first lines of coco_pope_random.json, as published.
POPE = "".join(
    f'{{"question_id": {number}, "image": "COCO_val2014_000000310196.jpg", '
    f'"text": "Is there a {name} in the image?", "label": "{label}"}}\n'
    for number, name, label in ((1, "snowboard", "yes"), (2, "car", "no"))
)
QUERIES = [
    {"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."},
    {"id": 1017, "image": "AMBER_1.jpg", "query": "Is it open?"},
    {"id": 15220, "image": "AMBER_1004.jpg", "query": "Is there direct contact between the cup and wall?"},
]
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["sky", "forest"], "hallu": ["cloud"]},
    {"id": 15220, "type": "relation", "truth": "no"},
    {"id": 1017, "type": "discriminative-attribute-action", "truth": "yes"},
]


def saved(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def refused(problem, read, *paths):
    with pytest.raises(DataError) as caught:
        read(*paths)
    message = str(caught.value)
    assert message == f"{paths[0]}{problem}"
    assert "\n" not in message


def test_pope_is_json_lines_whatever_its_name(tmp_path):
    questions = pope.read(saved(tmp_path / "coco_pope_random.json", POPE))
    image = "COCO_val2014_000000310196.jpg"
    assert questions[0] == YesNoQuestion(1, image, "Is there a snowboard in the image?", "yes")
    assert [one.answer for one in questions] == ["yes", "no"]
    pope.write(questions, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == POPE


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"label": "maybe"}, ", record 1, field 'label': 'yes' or 'no' was expected, not 'maybe' (line 2)"),
        ({"label": True}, ", record 1, field 'label': a string was expected, not True (line 2)"),
        ({"question_id": "1"}, ", record 1, field 'question_id': 1 is also the id of record 0 (line 2)"),
        ({"question_id": None}, ", record 1, field 'question_id': is missing (line 2)"),
        ({"question_id": 1.5}, ", record 1, field 'question_id': an id was expected, not 1.5 (line 2)"),
        ({"text": ""}, ", record 1, field 'text': is empty (line 2)"),
    ],
)
def test_pope_refuses(tmp_path, change, problem):
    first, second = (json.loads(line) for line in POPE.splitlines())
    lines = f"{json.dumps(first)}\n{json.dumps(second | change)}\n"
    refused(problem, pope.read, saved(tmp_path / "pope.json", lines))


@pytest.mark.parametrize("read", [pope.read, object_halbench.read])
def test_files_without_questions(tmp_path, read):
    refused(": at least one question was expected", read, saved(tmp_path / "empty.jsonl", "\n"))
    refused(": cannot be read: No such file or directory", read, tmp_path / "absent.jsonl")


def test_amber(tmp_path):
    paths = saved(tmp_path / "query.json", QUERIES), saved(tmp_path / "annotations.json", ANNOTATIONS)
    questions = amber.read(*paths)
    assert questions.descriptions == (
        Description(1, "AMBER_1.jpg", "Describe this image.", ("sky", "forest"), ("cloud",)),
    )
    assert [(one.id, one.answer, one.kinds) for one in questions.yes_no] == [
        (1017, "yes", ("attribute", "action")),
        (15220, "no", ("relation",)),
    ]
    again = tmp_path / "q.json", tmp_path / "a.json"
    amber.write(questions, *again)
    assert amber.read(*again) == questions
    assert json.loads(again[0].read_text()) == QUERIES


@pytest.mark.parametrize(
    ("place", "change", "problem"),
    [
        (0, {"truth": "yes"}, ", record 0, field 'truth': a list of objects was expected"),
        (0, {"hallu": None}, ", record 0, field 'hallu': a list of objects was expected"),
        (1, {"truth": "No"}, ", record 1, field 'truth': 'yes' or 'no' was expected, not 'No'"),
        (1, {"type": "discriminative"}, ", record 1, field 'type': 'discriminative' is no type of AMBER's"),
        (1, {"id": 1}, ", record 1, field 'id': 1 is also the id of record 0"),
    ],
)
def test_amber_refuses(tmp_path, place, change, problem):
    changed = [one | change if index == place else one for index, one in enumerate(ANNOTATIONS)]
    annotations = saved(tmp_path / "annotations.json", changed)
    refused(problem, lambda path: amber.read(saved(tmp_path / "query.json", QUERIES), path), annotations)


def test_amber_needs_every_annotation(tmp_path):
    annotations = saved(tmp_path / "annotations.json", ANNOTATIONS[:2])
    problem = f", record 1, field 'id': 1017 is not annotated in {annotations}"
    refused(problem, amber.read, saved(tmp_path / "query.json", QUERIES), annotations)
    refused(": holds no records", amber.read, saved(tmp_path / "no.json", []), annotations)


def test_amber_associations(tmp_path):
    path = saved(tmp_path / "relation.json", {"sky": [], "forest": ["tree", "bush"]})
    found = amber.read_associations(path)
    assert found == {"sky": (), "forest": ("tree", "bush")}
    amber.write_associations(found, tmp_path / "again.json")
    assert amber.read_associations(tmp_path / "again.json") == found
    wrong = saved(tmp_path / "wrong.json", {"sky": [1]})
    refused(", record 0, field 'sky': a list of strings was expected, not [1]", amber.read_associations, wrong)
    refused(": an object was expected, not list", amber.read_associations, saved(tmp_path / "list.json", []))


def test_coco(tmp_path):
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    marked = [{"image_id": 7, "category_id": 18}, {"image_id": 7, "category_id": 18}, {"image_id": 9, "category_id": 1}]
    path = saved(tmp_path / "instances.json", {"categories": categories, "annotations": marked})
    found = coco.read_instances(path)
    assert found == {7: {"dog"}, 9: {"person"}}
    told = [{"image_id": 7, "caption": "A dog."}, {"image_id": 7, "caption": "A big dog."}]
    assert coco.read_captions(saved(tmp_path / "captions.json", {"annotations": told})) == {7: ("A dog.", "A big dog.")}
    coco.write_objects(found, tmp_path / "objects.json")
    assert coco.read_objects(tmp_path / "objects.json") == found

    wrong = saved(tmp_path / "wrong.json", {"categories": categories, "annotations": [marked[0] | {"category_id": 2}]})
    refused(", record 0, field 'annotations.category_id': 2 is no category of this file", coco.read_instances, wrong)
    lacking = saved(tmp_path / "lacking.json", {"annotations": [told[0], {"image_id": 7}]})
    refused(", record 1, field 'annotations.caption': is missing", coco.read_captions, lacking)
    refused(", field 'annotations': is missing", coco.read_captions, saved(tmp_path / "none.json", {}))
    refused(
        ", field 'annotations': a list was expected",
        coco.read_captions,
        saved(tmp_path / "no.json", {"annotations": 1}),
    )
    odd = saved(tmp_path / "odd.json", {"annotations": [told[0], 3]})
    refused(", record 1, field 'annotations': an object was expected, not int", coco.read_captions, odd)


def test_synonyms(tmp_path):
    """CHAIR's own list is what it was, white space included."""
    lines = [line for line in coco.read_synonyms().splitlines() if line.strip()]
    assert len(lines) == 80
    assert lines[3] == "motorcycle, scooter,  motor bike, motor cycle, motorbike, scooter, moped"
    assert coco.SYNONYMS.with_suffix(".LICENSE").is_file()
    nameless = saved(tmp_path / "words.txt", "dog, pup\n, cat\n")
    refused(", record 1: it has no name before the first comma", coco.read_synonyms, nameless)
    empty = saved(tmp_path / "empty.txt", "\n")
    refused(": a line of words for each object was expected", coco.read_synonyms, empty)


def test_object_halbench(tmp_path):
    line = {"image_id": 391895, "question": "Describe.", "image": "/9j/4A==", "source": "coco"}
    path = saved(tmp_path / "obj_halbench.jsonl", json.dumps(line) + "\n")
    (question,) = object_halbench.read(path)
    expected = ObjectQuestion(391895, "Describe.", b"\xff\xd8\xff\xe0", (("source", '"coco"'),))
    assert question == expected
    object_halbench.write([question], tmp_path / "again.jsonl")
    assert json.loads((tmp_path / "again.jsonl").read_text()) == line
    broken = saved(tmp_path / "broken.jsonl", json.dumps(line | {"image": "/9j/4A="}))
    with pytest.raises(DataError, match="record 0, field 'image': is not base64: "):
        object_halbench.read(broken)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("pope.jsonl", '{"question_id": 4, "text": "Yes", "prompt": "Is it?"}\n', [Answer(4, "Yes")]),
        (
            "amber.json",
            [{"id": 1, "response": "A sky."}, {"id": 2, "response": ""}],
            [Answer(1, "A sky."), Answer(2, "")],
        ),
        ("chair.json", [{"image_id": "42", "caption": "A dog."}], [Answer(42, "A dog.")]),
        ("objhal.jsonl", '{"image_id": 3, "question": "Q?", "answer": "A."}', [Answer(3, "A.", "Q?")]),
        ("2018.json", {"imgToEval": {"7": {"image_id": 7, "caption": "A cat."}}, "overall": {}}, [Answer(7, "A cat.")]),
    ],
)
def test_answers(tmp_path, name, content, found):
    assert answers.read(saved(tmp_path / name, content)) == found
    answers.write(found, tmp_path / "again.jsonl")
    assert answers.read(tmp_path / "again.jsonl") == found


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([{"text": "Yes"}], ", record 0: an id is missing: one of question_id, id, image_id"),
        ([{"id": 1}], ", record 0: a text is missing: one of answer, response, caption, text"),
        ([{"id": 1, "text": None}], ", record 0, field 'text': a string was expected, not None"),
        ([], ": at least one answer was expected"),
        ({"a": 1}, ", field 'imgToEval': is missing"),
    ],
)
def test_answers_refused(tmp_path, content, problem):
    refused(problem, answers.read, saved(tmp_path / "answers.json", content))


names = st.text(min_size=1, max_size=8)
keys = st.integers(0, 10**6)
asked = st.builds(
    YesNoQuestion, keys, names, names, st.sampled_from(["yes", "no"]), st.sampled_from([*amber.KINDS.values()])
)
told = st.builds(
    Description, keys, names, names, st.lists(names, max_size=3).map(tuple), st.lists(names, max_size=3).map(tuple)
)


@given(
    st.lists(asked, min_size=1, max_size=4, unique_by=lambda one: one.id),
    st.lists(told, max_size=3, unique_by=lambda one: one.id),
)
def test_what_is_written_is_read_again(tmp_path_factory, yes_no, descriptions):
    folder = tmp_path_factory.mktemp("files", numbered=True)
    plain = [YesNoQuestion(one.id, one.image, one.question, one.answer) for one in yes_no]
    pope.write(plain, folder / "pope.json")
    assert pope.read(folder / "pope.json") == plain
    apart = tuple(YesNoQuestion(one.id + 10**7, one.image, one.question, one.answer, one.kinds) for one in yes_no)
    questions = amber.Questions(tuple(descriptions), apart)
    amber.write(questions, folder / "q.json", folder / "a.json")
    assert amber.read(folder / "q.json", folder / "a.json") == questions


@given(
    st.lists(
        st.builds(Answer, keys | names.filter(lambda n: not n.isdecimal()), st.text(max_size=9), st.text(max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_answers_are_read_again(tmp_path_factory, given_answers):
    path = tmp_path_factory.mktemp("answers", numbered=True) / "answers.jsonl"
    answers.write(given_answers, path)
    assert answers.read(path) == given_answers
