from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlmend
from vlmend import EditCase, Example, Probe
from vlmend.data.formats import mmedit, recognise, vlkeb
from vlmend.errors import DataError


@pytest.mark.parametrize("name", ["vlkeb_eval", "vlkeb_onehop"])
def test_published_records_survive(fixtures, tmp_path, name):
    path = fixtures / f"{name}.json"
    assert recognise(path) is vlkeb
    cases = vlmend.read(path, tmp_path, check_images=False)
    vlkeb.write(cases, tmp_path / path.name)
    assert json.loads((tmp_path / path.name).read_text()) == json.loads(path.read_text())
    assert vlkeb.read(tmp_path / path.name, check_images=False) == cases


def test_portability_goes_where_it_belongs(fixtures):
    case = vlmend.read(fixtures / "vlkeb_onehop.json", check_images=False)[0]
    (probe,) = case.probes_of("portability")
    assert case.request.answer == "The Last Emperor"
    question = "Who was the producer of the film depicted in the picture?"
    fact = Example("Who is the producer of the movie The Last Emperor?", None, "Jeremy Thomas")
    assert probe == Probe("portability", Example(question, case.request.image, "Jeremy Thomas"), 1, (fact,))


def record(**changes: object) -> dict[str, object]:
    made: dict[str, object] = dict.fromkeys(mmedit.FIELDS, "")
    return made | {"src": "what ?", "alt": "red", "image": "m.01x/a.jpg"} | changes


MANY = [
    {"port_type": f"{hops}-hop", "Q&A": {"Question": f"{hops} ?", "Answer": "x", "steps": [1]}, "path": ["a", None]}
    for hops in (1, 2, 3, 4)
]
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
anything = st.recursive(st.none() | st.integers() | words, lambda inner: st.lists(inner, max_size=2), max_leaves=4)
extras = st.dictionaries(words.map("extra_".__add__), anything, max_size=2)


def one_hop(texts: tuple[str, str, str, str]) -> dict[str, object]:
    return dict(zip(("port_edit_q", "port_edit_a", "port_q", "port_a"), texts, strict=True))


def many_hops(parts: tuple[int, str, str]) -> dict[str, object]:
    return {"port_type": f"{parts[0]}-hop", "Q&A": {"Question": parts[1], "Answer": parts[2]}}


ports = st.tuples(words, words, words, words).map(one_hop) | st.tuples(st.integers(1, 4), words, words).map(many_hops)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(st.tuples(ports, extras), max_size=3), extras, words), min_size=1, max_size=3))
def test_any_records_survive(tmp_path_factory, drawn):
    """Whatever else a record or one of its portability questions says, it is still said after reading and writing."""
    folder = tmp_path_factory.mktemp("vlkeb")
    listed = [
        record(src=question, **({"port_new": [port | more for port, more in asked]} if asked else {}), **extra)
        for asked, extra, question in drawn
    ]
    (folder / "a.json").write_text(json.dumps(listed), encoding="utf-8")
    cases = vlmend.read(folder / "a.json", check_images=False)
    vlkeb.write(cases, folder / "b.json")
    assert json.loads((folder / "b.json").read_text(encoding="utf-8")) == listed
    back = [replace(case, id="", source="") for case in vlkeb.read(folder / "b.json", check_images=False)]
    assert back == [replace(case, id="", source="") for case in cases]


def test_many_hops(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([record(image="a.jpg"), record(image="a.jpg", port_new=MANY)]))
    assert recognise(path) is vlkeb, "portability questions in any record are enough"
    plain, asked = vlmend.read(path, check_images=False)
    assert plain.probes == ()
    assert [probe.hops for probe in asked.probes] == [1, 2, 3, 4]
    assert asked.probes[0].notes == (("path", '["a", null]'), ("Q&A.steps", "[1]"))


@pytest.mark.parametrize(
    ("port", "field", "problem"),
    [
        ({"port_q": "a ?"}, "port_new[0].port_a", "is missing"),
        ({"port_q": 3, "port_a": "x"}, "port_new[0].port_q", "a string was expected, not 3"),
        ({"port_type": "far", "Q&A": {}}, "port_new[0].port_type", "'1-hop' or the like"),
        ({"port_type": "2-hop", "Q&A": []}, "port_new[0].Q&A", "an object was expected"),
        ({"port_type": "2-hop", "Q&A": {"Question": ""}}, "port_new[0].Q&A.Question", "is empty"),
        ("port", "port_new[0]", "an object was expected, not 'port'"),
    ],
)
def test_errors_name_the_place(tmp_path, port, field, problem):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([record(), record(port_new=[port])]))
    with pytest.raises(DataError, match=problem) as caught:
        vlmend.read(path, check_images=False)
    assert str(caught.value).startswith(f"{path}, record 1, field '{field}': ")


IMAGE = "m.01x/a.jpg"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hops": None}, "how many hops"),
        ({"example": Example("where ?", None, "x")}, "the request's picture"),
        ({"premises": (Example("a ?", None, "b"), Example("c ?", None, "d"))}, "one fact"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, changes, problem):
    image = tmp_path / IMAGE
    probe = replace(Probe("portability", Example("where ?", image, "x"), 1), **changes)
    case = EditCase("x", Example("what ?", image, "red"), probes=(probe,))
    with pytest.raises(DataError, match=problem):
        vlkeb.write([case], tmp_path / "cases.json")
    with pytest.raises(DataError, match="no place for this 'portability' probe"):
        mmedit.write([case], tmp_path / "cases.json")
    assert not list(tmp_path.iterdir())


def test_a_table_holds_portability_but_no_notes(fixtures, tmp_path):
    cases = vlmend.read(fixtures / "vlkeb_onehop.json", tmp_path, check_images=False)
    vlkeb.write(cases, tmp_path / "vlkeb_onehop.csv")
    back = vlmend.read(tmp_path / "vlkeb_onehop.csv", check_images=False)
    assert back == [replace(case, source="vlkeb_onehop.csv") for case in cases]
    with pytest.raises(DataError, match="record 0, field 'x': a table has no place for it"):
        vlkeb.write([replace(cases[0], notes=(("x", "1"),))], tmp_path / "b.csv")
