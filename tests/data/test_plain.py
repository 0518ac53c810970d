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
from vlmend.data.formats import plain, recognise
from vlmend.data.pictures import relocated
from vlmend.errors import DataError, MissingImageError, WriteError

TABLE = "\n".join(
    (
        "image, question, answer, aliases, rejected, rephrase, image_rephrase,"
        "loc, loc_ans, m_loc, m_loc_q, m_loc_a, port, port_ans",
        'a.png, "What is it, exactly?", a kettle, pot | tea kettle, a cup, Name it.|Say it., b.png,'
        "Who?, me, c.png, Any dog?, no, Use?, tea",
        "",
        "d.png,Which?,red,,,,,,,,,,,",
    )
)


def test_a_table_by_hand(tmp_path):
    path = tmp_path / "wrong.csv"
    path.write_text(TABLE)
    first, second = vlmend.read(path, check_images=False)
    image = tmp_path / "a.png"
    request = Example("What is it, exactly?", image, "a kettle", ("pot", "tea kettle"))
    assert first == EditCase(
        id="wrong-0",
        request=request,
        rejected="a cup",
        probes=(
            Probe("text_generality", replace(request, question="Name it.")),
            Probe("text_generality", replace(request, question="Say it.")),
            Probe("image_generality", replace(request, image=tmp_path / "b.png")),
            Probe("text_locality", Example("Who?", None, "me")),
            Probe("image_locality", Example("Any dog?", tmp_path / "c.png", "no")),
            Probe("portability", Example("Use?", image, "tea")),
        ),
        source="wrong.csv",
    )
    assert second == EditCase("wrong-1", Example("Which?", tmp_path / "d.png", "red"), source="wrong.csv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
def test_the_same_in_every_kind_of_file(tmp_path, name):
    """Flat probes are written flat, in each kind of file, and are read as they were."""
    (tmp_path / "t.csv").write_text(TABLE)
    cases = [replace(case, source=name) for case in vlmend.read(tmp_path / "t.csv", check_images=False)]
    single = [replace(cases[0], probes=(cases[0].probes[0], *cases[0].probes[2:])), cases[1]]
    plain.write(single, tmp_path / name)
    assert recognise(tmp_path / name) is plain
    assert plain.read(tmp_path / name, check_images=False) == single
    assert "probes" not in (tmp_path / name).read_text()
    plain.write(cases, tmp_path / name)
    assert plain.read(tmp_path / name, check_images=False) == cases
    assert "probes" in (tmp_path / name).read_text()


letters = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
texts = letters.filter(str.strip)
files = st.from_regex(r"[a-z0-9_|\[]{1,6}(/[a-z0-9 _]{1,6}){0,2}\.(png|jpg)", fullmatch=True).map(Path)
notes = st.dictionaries(letters, st.none() | st.integers() | letters, max_size=2).map(
    lambda found: tuple((name, json.dumps(value, ensure_ascii=False)) for name, value in found.items())
)
examples = st.builds(
    Example, texts, st.none() | files, st.none() | st.text(max_size=5), st.lists(letters, max_size=2).map(tuple)
)
kinds = st.sampled_from(("text_generality", "image_locality", "text_locality", "portability", "same_image_locality"))
probes = st.builds(
    Probe, kinds, examples, st.none() | st.integers(0, 4), st.lists(examples, max_size=2).map(tuple), notes
)


@st.composite
def cases(
    draw: st.DrawFn, pictures: st.SearchStrategy[Path | None], sources: st.SearchStrategy[str | None]
) -> EditCase:
    """Cases with any probes, among them such as have a flat form."""
    aliases = tuple(draw(st.lists(letters, max_size=3)))
    request = Example(draw(texts), draw(pictures), draw(texts), aliases)
    again = Probe("text_generality", replace(request, question=draw(texts)))
    ported = Probe("portability", Example(draw(texts), request.image, draw(texts)))
    near = Probe("text_locality", Example(draw(texts), None, draw(st.none() | texts)))
    chosen = tuple(probe for probe in (again, near, ported) if draw(st.booleans()))
    others = draw(st.lists(probes, max_size=2).map(tuple))
    rejected = draw(st.none() | letters)
    made_up = draw(st.booleans())
    return EditCase(draw(letters), request, rejected, chosen + others, draw(sources), draw(notes), made_up)


def assert_survives(made: list[EditCase], path: Path) -> None:
    made = [relocated(case, lambda file: path.parent / file) for case in made]
    plain.write(made, path)
    assert plain.read(path, check_images=False) == made


by_id = {"min_size": 1, "max_size": 3, "unique_by": lambda case: case.id}


@settings(max_examples=150, deadline=None)
@given(st.lists(cases(st.none() | files, st.none() | letters), **by_id), st.sampled_from(("a.jsonl", "a.json")))
def test_any_cases_survive(tmp_path_factory, made, name):
    assert_survives(made, tmp_path_factory.mktemp("plain") / name)


@settings(max_examples=150, deadline=None)
@given(st.lists(cases(files, letters), **by_id))
def test_any_cases_survive_a_table(tmp_path_factory, made):
    """A table holds what JSON holds, but for requests without picture and cases without source."""
    assert_survives(made, tmp_path_factory.mktemp("plain") / "a.csv")


LINE = {"image": "a.png", "question": "what ?", "answer": "red"}


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"answer": 3}, "answer", "a string was expected, not 3"),
        ({"answer": ""}, "answer", "is empty"),
        ({"answer": " "}, "answer", "is empty"),
        ({"image": ""}, "image", "is empty"),
        ({"image": 4}, "image", "a list of strings was expected, not 4"),
        ({"question": None}, "question", "a string was expected, not None"),
        ({"aliases": ["x", 1]}, "aliases", "a list of strings was expected"),
        ({"rephrased": "x"}, "rephrased", "is not a field of this format; there are: image, question"),
        ({"m_loc": "b.png"}, "m_loc_q", "is empty, but 'm_loc' is not"),
        ({"port_ans": "b"}, "port", "is empty, but 'port_ans' is not"),
        ({"probes": {}}, "probes", "a list was expected"),
        ({"probes": [{"kind": "locality"}]}, "probes[0].kind", "'locality' is no kind of probe"),
        ({"probes": [{"kind": "portability"}]}, "probes[0].question", "is missing"),
        ({"probes": [{"kind": "portability", "question": "a ?", "hops": "2"}]}, "probes[0].hops", "whole number"),
        ({"notes": [1]}, "notes", "an object was expected"),
        ({"id": "a-0"}, "id", "'a-0' is also the id of record 0"),
    ],
)
def test_errors_name_the_place(tmp_path, changes, field, problem):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (LINE, LINE | changes)))
    with pytest.raises(DataError, match=problem) as caught:
        vlmend.read(path, check_images=False)
    assert str(caught.value).startswith(f"{path}, record 1, field '{field}': ")
    assert str(caught.value).endswith("(line 2)")


@pytest.mark.parametrize("field", LINE)
def test_missing_field(tmp_path, field):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({name: value for name, value in LINE.items() if name != field}))
    with pytest.raises(DataError, match=rf"record 0, field '{field}': is missing \(line 1\)"):
        vlmend.read(path, check_images=False)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", json.dumps(LINE) + "\n\n{broken", r"line 3 is not JSON: .* \(column 2\)"),
        ("a.jsonl", json.dumps(LINE) + "\n3", r"record 1: an object was expected, not int \(line 2\)"),
        ("a.jsonl", "", "holds no records"),
        ("a.csv", "image,question,answer\n", "holds no records"),
        ("a.csv", "image,question,answer\na,b\n", r"record 0: 2 cells instead of the header's 3 \(line 2\)"),
        ("a.csv", "image,question,answer,answer\na,b,c,d\n", "field 'answer': stands twice in the header"),
        ("a.csv", 'image,question,answer\na,"b\n', "is not CSV"),
        ("a.csv", "image,question\na,b\n", r"field 'answer': is missing \(line 2\)"),
        ("a.csv", "image,question,answer,aliases\na,b,c,[d\n", r"field 'aliases': is not JSON"),
        ("a.csv", "image,question,answer,probes\na,b,c,d\n", r"field 'probes': is not JSON"),
        ("a.csv", "picture,text\na,b\n", r"its fields \(picture, text\) are of no known format"),
        ("a.json", "[" * 100_000, "is not JSON that can be read"),
        ("a.jsonl", "9" * 5000, "line 1 is not JSON that can be read"),
    ],
)
def test_files_that_are_no_cases(tmp_path, name, content, problem):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=problem) as caught:
        vlmend.read(tmp_path / name, check_images=False)
    assert "\n" not in str(caught.value)


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("image,question,answer\na,où ?,b\n".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        vlmend.read(tmp_path / "a.csv")


def test_spreadsheets(tmp_path):
    """A byte-order mark, semicolons and Windows line ends are what spreadsheets write."""
    (tmp_path / "a.csv").write_bytes("\ufeffimage;question;answer\r\na.png;où, donc ?;là\r\n;;\r\n".encode())
    (case,) = vlmend.read(tmp_path / "a.csv", check_images=False)
    assert case.request == Example("où, donc ?", tmp_path / "a.png", "là")


def test_missing_images_are_listed_or_skipped(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    lines = (LINE, LINE | {"image_rephrase": ["a.png", "b.png"]}, LINE | {"image": None})
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(MissingImageError) as caught:
        vlmend.read(tmp_path / "a.jsonl")
    assert caught.value.missing == ((1, tmp_path / "b.png"),)
    assert [case.id for case in vlmend.read(tmp_path / "a.jsonl", skip_missing=True)] == ["a-0", "a-2"]


GOOD = EditCase("x", Example("what ?", Path("a.png"), "red"), source="tests")


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (replace(GOOD, request=Example("what ?", Image.new("RGB", (2, 2)), "red")), "must be a file"),
        (replace(GOOD, request=Example("what ?", Path("a.png"), "")), "no answer"),
        (replace(GOOD, request=Example("what ?", Path("a.png"))), "no answer"),
        (replace(GOOD, request=Example(" ", Path("a.png"), "red")), "question is empty"),
        (replace(GOOD, id=""), "id is empty"),
        (replace(GOOD, probes=(Probe("locality", Example("what ?")),)), "no kind of probe"),
        (replace(GOOD, request=Example("what ?", None, "red")), "a question without picture"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, case, problem):
    with pytest.raises(DataError, match=problem):
        plain.write([case], tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "probe",
    [
        Probe("text_locality", Example("who ?", None, "")),
        Probe("image_locality", Example("who ?", Path("b.png"), "x", ("y",))),
        Probe("text_generality", Example("say", Path("a.png"), "blue")),
        Probe("portability", Example("why ?", Path("a.png"), "x"), hops=2),
    ],
)
def test_what_flat_fields_cannot_say_is_listed(tmp_path, probe):
    assert_survives([replace(GOOD, probes=(probe,))], tmp_path / "a.csv")
    assert '"kind"' in (tmp_path / "a.csv").read_text().replace('""', '"')


def test_one_id_for_two_cases_is_refused(tmp_path):
    with pytest.raises(DataError, match="record 1: case 'x' cannot be written as plain: another case has the same id"):
        plain.write([GOOD, GOOD], tmp_path / "a.jsonl")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WriteError, match=r"a\.jsonl cannot be written: No space left"):
        plain.write([GOOD], tmp_path / "a.jsonl")
    assert not list(tmp_path.iterdir())


def test_several_pictures(tmp_path):
    """A question about two pictures names both, in a list or in one cell."""
    (tmp_path / "a.jsonl").write_text(json.dumps(LINE | {"image": ["a.png", "b.png"]}))
    (case,) = vlmend.read(tmp_path / "a.jsonl", check_images=False)
    assert case.request.image == (tmp_path / "a.png", tmp_path / "b.png")
    for name in ("a.jsonl", "b.csv"):
        plain.write([case], tmp_path / name)
        assert plain.read(tmp_path / name, check_images=False)[0].request == case.request
    with pytest.raises(MissingImageError, match="2 images are missing"):
        plain.read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_flag_is_true_or_false(tmp_path, name):
    made_up = EditCase("one", Example("What?", tmp_path / "a.png", "red"), source=name, counterfactual=True)
    plain.write([made_up, replace(made_up, id="two", counterfactual=False)], tmp_path / name)
    assert [case.counterfactual for case in plain.read(tmp_path / name, check_images=False)] == [True, False]
    (tmp_path / name).write_text((tmp_path / name).read_text().replace("true", "0"))
    with pytest.raises(DataError, match=r"record 0, field 'counterfactual': true or false was expected, not '?0'?"):
        plain.read(tmp_path / name, check_images=False)
