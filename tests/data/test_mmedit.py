from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vlmend
from vlmend import EditCase, Example, Probe
from vlmend.data.formats import mmedit
from vlmend.errors import DataError, MissingImageError

KINDS = ("text_generality", "image_generality", "text_locality", "image_locality")


@pytest.mark.parametrize(("name", "count"), [("e_vqa", 4), ("e_ic", 3)])
def test_published_records_survive(fixtures, tmp_path, name, count):
    """Read and written again, a published file has the same records, field by field."""
    cases = vlmend.read(fixtures / f"{name}.json", tmp_path, check_images=False)
    assert len(cases) == count
    mmedit.write(cases, tmp_path / "again.json")
    again, published = (json.loads(path.read_text()) for path in (tmp_path / "again.json", fixtures / f"{name}.json"))
    assert again == published


def test_fields_go_where_they_belong(fixtures):
    case = vlmend.read(fixtures / "e_vqa.json", check_images=False)[0]
    image = fixtures / "val2014/COCO_val2014_000000320857.jpg"
    assert case == EditCase(
        id="e_vqa-0",
        request=Example("What Hollywood movie is one of the food dishes named after?", image, "goodfellas"),
        rejected="The Godfather",
        probes=(
            Probe("text_generality", Example("What food dish is named after a Hollywood movie?", image, "goodfellas")),
            Probe(
                "image_generality",
                Example(
                    "What Hollywood movie is one of the food dishes named after?",
                    fixtures / "val2014_image_rephrase/320857000_COCO_val2014_000000320857.png",
                    "goodfellas",
                ),
            ),
            Probe(
                "text_locality", Example("nq question: who is the owner of reading football club", None, "Dai Yongge")
            ),
            Probe(
                "image_locality",
                Example(
                    "What is that man doing with the bat?",
                    fixtures / "val2014/COCO_val2014_000000286313.jpg",
                    "trying to hit hte ball",
                ),
            ),
        ),
        source="e_vqa.json",
    )
    assert case.probes_of("text_locality") == case.probes[2:3]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_other_kinds_of_files_hold_the_same(fixtures, tmp_path, name):
    cases = [replace(case, source=name) for case in vlmend.read(fixtures / "e_vqa.json", tmp_path, check_images=False)]
    mmedit.write(cases, tmp_path / name)
    back = vlmend.read(tmp_path / name, check_images=False)
    assert [replace(case, id="") for case in back] == [replace(case, id="") for case in cases]


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
files = st.from_regex(r"[a-z0-9_]{1,8}(/[a-z0-9 _]{1,8}){0,2}\.(png|jpg)", fullmatch=True)


@st.composite
def records(draw: st.DrawFn) -> dict[str, str]:
    """Records as published ones could be, with anything that may be empty sometimes empty."""
    record = {field: draw(st.one_of(st.just(""), words)) for field in ("pred", "rephrase", "alt", "loc", "loc_ans")}
    record |= {"src": draw(words), "image": draw(files), "image_rephrase": draw(st.one_of(st.just(""), files))}
    has_other = draw(st.booleans())
    record["m_loc"] = draw(files) if has_other else ""
    record |= {field: draw(words) if has_other else "" for field in ("m_loc_q", "m_loc_a")}
    return record


@settings(max_examples=60, deadline=None)
@given(st.lists(records(), min_size=1, max_size=4))
def test_any_records_survive(tmp_path_factory, listed):
    folder = tmp_path_factory.mktemp("mmedit")
    (folder / "a.json").write_text(json.dumps(listed), encoding="utf-8")
    cases = vlmend.read(folder / "a.json", check_images=False)
    mmedit.write(cases, folder / "b.json")
    assert json.loads((folder / "b.json").read_text(encoding="utf-8")) == listed
    back = mmedit.read(folder / "b.json", check_images=False)
    assert [replace(case, id="", source="") for case in back] == [replace(case, id="", source="") for case in cases]


def record(**changes: object) -> dict[str, object]:
    made: dict[str, object] = dict.fromkeys(mmedit.FIELDS, "")
    return made | {"src": "what ?", "alt": "red", "image": "a.png"} | changes


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"alt": 3}, "alt", "a string was expected, not 3"),
        ({"loc": None}, "loc", "a string was expected, not None"),
        ({"image": ""}, "image", "is empty"),
        ({"src": ""}, "src", "is empty"),
        ({"m_loc_q": "what ?"}, "m_loc", "is empty, but"),
        ({"alternative": "x"}, "alternative", "is not a field"),
    ],
)
def test_errors_name_the_place(tmp_path, changes, field, problem):
    path = write(tmp_path / "cases.json", [record(), record(**changes)])
    with pytest.raises(DataError, match=problem) as caught:
        vlmend.read(path, check_images=False)
    assert str(caught.value).startswith(f"{path}, record 1, field '{field}': ")


def test_missing_required_field(tmp_path):
    lacking = record()
    del lacking["alt"]
    path = write(tmp_path / "cases.json", [record(), lacking])
    with pytest.raises(DataError, match="record 1, field 'alt': is missing"):
        vlmend.read(path, check_images=False)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("{}", "a list of records was expected, not dict"),
        ("[]", "holds no records"),
        ("[1]", "a list of at least one record"),
        ('[{"question": "what ?"}]', r"its fields \(question\) are of no known format"),
    ],
)
def test_files_that_are_no_cases(tmp_path, content, problem):
    path = tmp_path / "cases.json"
    path.write_text(content)
    with pytest.raises(DataError, match=problem):
        vlmend.read(path)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        vlmend.read(tmp_path / "none.json")
    with pytest.raises(DataError, match="record 1: an object was expected"):
        mmedit.read(write(tmp_path / "a.json", [record(), 3]), check_images=False)


def test_missing_images_are_listed_or_skipped(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "a.png")
    path = write(tmp_path / "cases.json", [record(), record(m_loc="b.png", m_loc_q="what ?", m_loc_a="x"), record()])
    with pytest.raises(MissingImageError) as caught:
        vlmend.read(path, tmp_path / "pictures")
    assert caught.value.missing == ((1, tmp_path / "pictures" / "b.png"),)
    kept = vlmend.read(path, tmp_path / "pictures", skip_missing=True)
    assert [case.id for case in kept] == ["cases-0", "cases-2"]


def test_images_are_written_relative_to_the_file(tmp_path):
    case = EditCase("x", Example("what ?", tmp_path / "pictures" / "a.png", "red"))
    mmedit.write([case], tmp_path / "sets" / "cases.json")
    assert json.loads((tmp_path / "sets" / "cases.json").read_text())[0]["image"] == "../pictures/a.png"


IMAGE = Path("a.png")
WHOLE = EditCase("x", Example("what ?", IMAGE, "red"), None, (Probe("text_generality", Example("say", IMAGE, "red")),))


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (replace(WHOLE, request=Example("what ?", Image.new("RGB", (2, 2)), "red")), "must be a file"),
        (replace(WHOLE, request=Example("what ?", None, "red")), "must be a file"),
        (replace(WHOLE, request=Example("", IMAGE, "red")), "question is empty"),
        (replace(WHOLE, request=Example("what ?", IMAGE, "red", ("rouge",))), "aliases"),
        (replace(WHOLE, probes=WHOLE.probes * 2), "'text_generality' probe"),
        (replace(WHOLE, probes=(Probe("near_miss", Example("what ?")),)), "'near_miss' probe"),
        (replace(WHOLE, probes=(Probe("text_generality", Example("say", Path("b.png"), "red")),)), "request's picture"),
        (replace(WHOLE, probes=(Probe("image_generality", Example("say", IMAGE, "red")),)), "request's question"),
        (replace(WHOLE, probes=(Probe("text_locality", Example("who ?", IMAGE, "x")),)), "no picture"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, case, problem):
    with pytest.raises(DataError, match=problem):
        mmedit.write([case], tmp_path / "cases.json")
    assert not list(tmp_path.iterdir())
