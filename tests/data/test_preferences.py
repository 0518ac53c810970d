"""Files of preferences and conversations: read by hand, there and back, and clear complaints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vlmend
from vlmend.data.formats import bpo, conversations, mdpo, recognise, trl
from vlmend.data.formats.pairing import EMPTY, MISSING
from vlmend.data.formats.preferences import holds_pairs, read_pairs, read_preferences
from vlmend.data.formats.preferences import recognise as recognise_pairs
from vlmend.data.records import PreferencePair, SkippedPair
from vlmend.data.summary import summarise_pairs
from vlmend.errors import DataError, MissingImageError

COMPLETIONS = [
    {"score": 1, "response": "A red kettle.", "type": "gt"},
    {"score": 0, "response": "A blue kettle.", "type": "llm-hal"},
    {"score": 0, "response": "A red cup.", "type": "mllm-hal"},
]


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 6), (200, 30, 30)).save(path)
    return path


def test_bpo_pairs_answers_of_unequal_score(tmp_path: Path, image: Path) -> None:
    path = written(tmp_path / "bpo.json", [{"prompt": "<image>\nWhat?", "image": "a.png", "completions": COMPLETIONS}])
    assert recognise_pairs(path) is bpo
    found = bpo.read(path)
    assert [(one.chosen, one.rejected, one.origin) for one in found.pairs] == [
        ("A red kettle.", "A blue kettle.", "llm-hal"),
        ("A red kettle.", "A red cup.", "mllm-hal"),
    ]
    assert found.left_out == {bpo.TIED: 1}
    assert found.skipped == (SkippedPair("bpo-0-2-1", bpo.TIED),)
    assert {one.image for one in found.pairs} == {image}
    assert [one.id for one in found.pairs] == ["bpo-0-0-1", "bpo-0-0-2"]


def test_a_too_long_answer_is_dropped_and_not_its_record(tmp_path: Path, image: Path) -> None:
    long = {"score": 0, "response": "word " * 351, "type": "llm-hal"}
    path = written(
        tmp_path / "bpo.json", [{"prompt": "What?", "image": "a.png", "completions": [*COMPLETIONS[:2], long]}]
    )
    found = read_preferences(path)
    assert len(found.pairs) == 1
    assert found.skipped == (SkippedPair("bpo-0-2", bpo.TOO_LONG),)


def test_bpo_there_and_back(tmp_path: Path, image: Path) -> None:
    pair = PreferencePair("p", "<image>\nWhat?", "red", "blue", image, origin="injected")
    bpo.write([pair], tmp_path / "out.json")
    (again,) = read_pairs(tmp_path / "out.json")
    assert replace(again, id="p", notes=()) == pair


def test_mdpo(fixtures: Path) -> None:
    found = read_preferences(fixtures / "mdpo_sample.json", check_images=False)
    first = found.pairs[0]
    assert recognise_pairs(fixtures / "mdpo_sample.json") is mdpo
    assert first.question.startswith("<image>\nHow might the atmosphere")
    assert first.question.endswith("gathered outside?")
    assert first.image == fixtures / "images" / "llava-reasoning-3730.jpg"
    with pytest.raises(MissingImageError, match="2 images are missing"):
        read_pairs(fixtures / "mdpo_sample.json")
    assert read_preferences(fixtures / "mdpo_sample.json", skip_missing=True).left_out == {"a picture is missing": 2}


@pytest.mark.parametrize("fields", [{"prompt": "What?"}, {"prompt": "What?", "img_path": ""}], ids=["TRL", "mDPO"])
@pytest.mark.parametrize("field", ["chosen", "rejected"])
def test_a_pair_with_an_empty_answer_is_left_out_by_name(tmp_path: Path, fields: dict[str, str], field: str) -> None:
    good = fields | {"id": "good", "chosen": "a", "rejected": "b"}
    records = [good | {"id": "empty", field: ""}, good | {"id": "blank", field: " "}, good]
    found = read_preferences(written(tmp_path / "own.json", records))
    assert [one.id for one in found.pairs] == ["good"]
    assert found.skipped == (SkippedPair("empty", EMPTY), SkippedPair("blank", EMPTY))


def test_a_missing_picture_is_named_with_its_pair(tmp_path: Path, image: Path) -> None:
    good = {"prompt": "What?", "chosen": "a", "rejected": "b", "images": ["a.png"]}
    records = [good, good | {"images": ["gone.png"]}, good, good | {"images": ["gone.png"]}]
    path = written(tmp_path / "own.json", records)
    with pytest.raises(MissingImageError, match=r"record 1: .*--skip-missing"):
        read_preferences(path)
    found = read_preferences(path, skip_missing=True)
    assert found.skipped == (SkippedPair("own-1", MISSING), SkippedPair("own-3", MISSING))
    assert [one.id for one in found.pairs] == ["own-0", "own-2"]
    assert found.first(None) == found.first(2) == found
    assert found.first(1).found == found.found[:1]


PAIR = PreferencePair(
    "p", "What is it?", "A red kettle.", "A blue kettle.", None, ((2, 5),), ((2, 6),), "injected", (("step", "700"),)
)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json", "pairs.parquet", "pairs.arrow"])
def test_there_and_back(tmp_path: Path, image: Path, name: str) -> None:
    pytest.importorskip("datasets")
    pairs = [
        replace(PAIR, image=image),
        replace(PAIR, id="q", image=(image, image), question="Is <image> like <image>?"),
        replace(PAIR, id="r", chosen_spans=(), rejected_spans=(), notes=()),
    ]
    trl.write(pairs, tmp_path / name)
    again = read_pairs(tmp_path / name)
    for before, after in zip(pairs, again, strict=True):
        assert replace(after, image=None) == replace(before, image=None)
        assert len(after.pictures) == len(before.pictures)
        for one in after.pictures:
            opened = one if isinstance(one, Image.Image) else Image.open(one)
            assert opened.convert("RGB").tobytes() == Image.open(image).convert("RGB").tobytes()


def test_datasets_gives_pictures_and_messages(tmp_path: Path, image: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl.write([replace(PAIR, image=image)], tmp_path / "pairs.parquet")
    (row,) = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "pairs.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert row["prompt"] == [{"role": "user", "content": "What is it?"}]
    assert row["rejected"] == [{"role": "assistant", "content": "A blue kettle."}]
    assert row["images"][0].size == (8, 6)
    assert row["rejected_spans"] == [[2, 6]]
    datasets.Dataset.from_list([row]).save_to_disk(tmp_path / "saved")
    assert replace(read_pairs(tmp_path / "saved")[0], image=None) == PAIR


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "What?", "chosen": "a", "rejected": "b", "image": "a.png"},
        {"question": "What?", "chosen": "a", "rejected": "b", "images": ["a.png"]},
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}],
            "rejected": [{"role": "assistant", "content": "b"}],
            "images": ["a.png"],
        },
        {
            "chosen": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "b"}],
            "images": ["a.png"],
        },
    ],
)
def test_ways_to_write_a_pair(tmp_path: Path, image: Path, record: dict[str, Any]) -> None:
    (pair,) = read_pairs(written(tmp_path / "own.json", [record]))
    assert pair == PreferencePair("own-0", "What?", "a", "b", image)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "What?", "chosen": "a", "rejected": None}, "'rejected': is missing"),
        ({"chosen": "a", "rejected": "b"}, "'prompt': is missing"),
        ({"prompt": "What?", "chosen": "a", "rejected": "b", "chosen_spans": [[0, 9]]}, "does not lie in the answer"),
        ({"prompt": "<image> What?", "chosen": "a", "rejected": "b"}, "1 times <image> for 0 picture"),
        ({"prompt": [{"role": "user", "content": "x"}] * 2, "chosen": "a", "rejected": "b"}, "one question was"),
        ({"prompt": "What?", "chosen": "a", "rejected": "b", "images": [3]}, "neither a file's name"),
        ({"prompt": "x", "completions": [{"response": "a"}]}, "completions[0].score': is missing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, record: dict[str, Any], words: str) -> None:
    path = written(tmp_path / "own.json", [record])
    with pytest.raises(DataError) as caught:
        read_pairs(path)
    assert words in str(caught.value)
    assert "own.json, record 0" in str(caught.value)


def test_a_damaged_file_of_columns_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"x\.parquet: is no parquet that can be read"):
        read_pairs(tmp_path / "x.parquet")
    with pytest.raises(DataError, match="No such file"):
        read_pairs(tmp_path / "none.parquet")


def test_a_folder_of_shards(tmp_path: Path) -> None:
    trl.write([PAIR], tmp_path / "pairs-00000.jsonl")
    trl.write([replace(PAIR, id="q")], tmp_path / "pairs-00001.jsonl")
    assert [one.id for one in read_pairs(tmp_path)] == ["p", "q"]
    assert holds_pairs(tmp_path)


def test_what_is_left_out_of_shards_keeps_its_name(tmp_path: Path) -> None:
    for number in range(2):
        trl.write([PAIR, replace(PAIR, id="q", rejected="")], tmp_path / f"pairs-0000{number}.jsonl")
    found = read_preferences(tmp_path)
    assert [one.id for one in found.found] == ["p", "q", "p@1", "q@1"]
    assert found.left_out == {EMPTY: 2}


text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool)


@given(st.lists(st.tuples(text, text), min_size=1, max_size=4), st.data())
def test_any_text_there_and_back(tmp_path_factory: pytest.TempPathFactory, answers: Any, data: Any) -> None:
    pairs = [
        PreferencePair(f"p{n}", f"q {chosen}", f"{chosen} .", f"{rejected} !", chosen_spans=((0, len(chosen)),))
        for n, (chosen, rejected) in enumerate(answers)
        if "<image>" not in chosen
    ]
    path = tmp_path_factory.mktemp("any") / "pairs.jsonl"
    trl.write(pairs, path)
    if pairs:
        assert read_pairs(path) == pairs


CONVERSATION = {
    "id": "000000033471",
    "image": "a.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A kettle."},
        {"from": "human", "value": "Which colour?"},
        {"from": "gpt", "value": "Red."},
    ],
}


def test_conversations(tmp_path: Path, image: Path) -> None:
    path = written(tmp_path / "llava.json", [CONVERSATION, CONVERSATION])
    assert recognise(path) is conversations
    cases = vlmend.read(path)
    assert [one.id for one in cases] == ["000000033471", "000000033471.1", "000000033471#1", "000000033471#1.1"]
    assert [(one.request.question, one.request.answer) for one in cases[:2]] == [
        ("What is it?", "A kettle."),
        ("Which colour?", "Red."),
    ]
    assert {one.request.image for one in cases} == {image}
    conversations.write(cases[:2], tmp_path / "again.json")
    assert [one.request for one in vlmend.read(tmp_path / "again.json")] == [one.request for one in cases[:2]]


def test_a_conversation_that_the_model_begins_is_an_error(tmp_path: Path) -> None:
    turns = [{"from": "gpt", "value": "hello"}]
    path = written(tmp_path / "llava.json", [{"id": "x", "conversations": turns}])
    with pytest.raises(DataError, match=r"record 0, field 'conversations\[0\].from': human or user was expected"):
        vlmend.read(path)


def test_summary(image: Path) -> None:
    found = summarise_pairs([replace(PAIR, image=image), replace(PAIR, id="q", chosen="red")], {"why": 2})
    assert (found.pairs, found.origins, found.labelled, found.without_picture) == (2, {"injected": 2}, 2, 1)
    assert (found.chosen_words, found.rejected_words, found.longer) == (2.0, 3.0, 0.25)
    assert found.left_out == {"why": 2}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            ("prompt", "chosen", "images"),
            "preferences: TRL's, the likeliest, are chosen, rejected, and 'rejected' is missing",
        ),
        (
            ("prompt", "image"),
            "preferences: BPO's, the likeliest, are prompt, completions, and 'completions' is missing",
        ),
        (("a", "b"), "those of no file of preferences$"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, fields: tuple[str, ...], said: str) -> None:
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps([dict.fromkeys(fields, "words")]))
    with pytest.raises(DataError, match=said):
        read_pairs(file)
