"""IKE: what is told, in both layouts; which demonstrations are found, in what order, and which never."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import vlmend
from conftest import FAMILIES
from vlmend import VLM, EditCase, Example
from vlmend.data.formats import plain
from vlmend.data.records import TEXT_GENERALITY, TEXT_LOCALITY, Probe
from vlmend.editors.ike import IKE, demonstrated
from vlmend.edits.prompts import RecallOp
from vlmend.errors import EditError, PromptError
from vlmend.world.build import cases_of


def case(name: str, question: str, answer: str, image=None) -> EditCase:
    probes = (
        Probe(TEXT_GENERALITY, Example(f"say , {question}", image, answer)),
        Probe(TEXT_LOCALITY, Example("who wrote the song ?", None, "nobody")),
    )
    return EditCase(name, Example(question, image, answer), probes=probes)


@pytest.fixture
def edited(picture) -> EditCase:
    return case("edited", "what colour is the cup ?", "red", picture(1))


@pytest.fixture
def pool(picture, tmp_path):
    """A file of demonstrations: from the least like to the likest, and two that give the answer away."""
    for seed in range(1, 6):
        picture(seed).save(tmp_path / f"{seed}.png")
    cases = [
        case("far", "who wrote the song ?", "nobody", tmp_path / "2.png"),
        case("near", "what colour is the dog ?", "blue", tmp_path / "3.png"),
        case("nearest", "what colour is the cup ?", "blue", tmp_path / "4.png"),
        case("its picture", "what is it ?", "a cup", tmp_path / "1.png"),
        case("itself", "What colour is the cup ?", "Red", tmp_path / "5.png"),
    ]
    plain.write(cases, tmp_path / "pool.jsonl")
    return str(tmp_path / "pool.jsonl")


def texts(edit) -> list[str]:
    return [text for op in edit.ops for text in op.words]  # what stands first, then what stands before the question


def test_without_demonstrations_the_fact_is_told(tiny, edited):
    (op,) = IKE().fit(tiny("llava"), [edited]).ops
    assert isinstance(op, RecallOp)
    assert (op.texts, op.lead) == (("New Fact: what colour is the cup ? red\n",), "Prompt: ")


def test_demonstrations_in_their_kinds_and_the_likest_last(tiny, edited, pool):
    """Of the first eight one copies, three update, four retain; the likest is the first that gets a kind."""
    (text,) = texts(IKE(pool, count=3).fit(tiny("llava"), [edited]))
    *shown, fact = text.split("\n\n")
    assert fact == "New Fact: what colour is the cup ? red\n"
    assert shown == [
        "New Fact: who wrote the song ? nobody\nPrompt: who wrote the song ? nobody",
        "New Fact: what colour is the dog ? blue\nPrompt: say , what colour is the dog ? blue",
        "New Fact: what colour is the cup ? blue\nPrompt: who wrote the song ? nobody",
    ]
    (alone,) = texts(IKE(pool, count=1, shares=(1, 0, 0)).fit(tiny("llava"), [edited]))
    assert alone.startswith("New Fact: what colour is the cup ? blue\nPrompt: what colour is the cup ? blue\n\n")


def test_a_reader_of_what_is_nearest_has_the_likest(tiny, edited, pool):
    """EasyEdit puts the likest demonstration first and the least like last, next to the question."""
    (text,) = texts(IKE(pool, count=4, shares=(1, 0, 0)).fit(tiny("llava"), [edited]))
    *shown, _ = text.split("\n\n")

    def said(demonstrations: list[str]) -> str:  # a model that answers as the demonstration next to the question does
        return demonstrations[-1].split("?")[-1].strip()

    assert len(shown) == 3
    assert said(shown) == "blue"  # of a cup, too
    assert said(shown[::-1]) not in ("blue", "red")


def test_an_edit_is_never_demonstrated_by_itself(tiny, edited, pool):
    """Neither by a record of its picture, nor by one with its question and answer, however they are written."""
    (text,) = texts(IKE(pool, count=32).fit(tiny("llava"), [edited]))
    assert "a cup" not in text and "Red" not in text
    assert text.count("New Fact") == 4
    # Of another picture's edit, the record is one among others.
    other = replace(edited, request=replace(edited.request, question="is there a dog ?", answer="no"))
    (text,) = texts(IKE(pool, count=32).fit(tiny("llava"), [other]))
    assert "Red" in text and "a cup" not in text


def test_demonstrations_are_of_the_file_that_is_named(tiny, edited, pool, tmp_path):
    """EasyEdit keeps what it has embedded under the task's name, "caption" unless it is given one, for questions too: a
    model that answers as the demonstration next to the question then says a caption."""
    captions = [case(f"caption {n}", "a photo of", "a dog beside a cup", tmp_path / f"{n}.png") for n in (2, 3)]
    plain.write(captions, tmp_path / "captions.jsonl")
    files = (pool, str(tmp_path / "captions.jsonl"), pool)
    kept: dict[str, IKE] = {}
    for file in files[:2]:
        kept["caption"] = IKE(file, shares=(1, 0, 0))

    def said(method: IKE) -> str:
        (text,) = texts(method.fit(tiny("llava"), [edited]))
        return text.split("\n\n")[-2].split("?")[-1].strip()

    assert said(kept["caption"]).endswith("a photo of a dog beside a cup")
    method, found = IKE(shares=(1, 0, 0)), []
    for file in files:
        method = replace(method, demonstrations=file)
        found.append(said(method))
    assert (found[0], found[2]) == ("blue", "blue") and found[1] == said(kept["caption"])


def test_a_paraphrase_is_not_demonstrated_with_its_answer(tiny, edited, picture, tmp_path):
    """EasyEdit's README finds demonstrations among the cases that are measured: a model that copies has T-Gen whole."""
    picture(2).save(tmp_path / "2.png")
    same = case("edited", edited.request.question, "red", tmp_path / "2.png")  # the picture may have been saved anew
    plain.write([same, case("another", "what is it ?", "a cup", tmp_path / "2.png")], tmp_path / "measured.jsonl")

    def copied(text: str) -> float:  # a model that says what follows the very question where that stands in its prompt
        asked = [probe.example for probe in edited.probes_of(TEXT_GENERALITY)]
        return sum(f"Prompt: {one.question} {one.answer}" in text for one in asked) / len(asked)

    ours = IKE(str(tmp_path / "measured.jsonl"), count=32, shares=(0, 1, 0))
    published = "".join(ours._demonstration(edited, kind) for kind in ("copy", "update", "retain"))
    assert copied(published) == 1.0
    (text,) = texts(ours.fit(tiny("llava"), [edited]))
    assert "a cup" in text and copied(text) == 0.0


def test_no_more_demonstrations_than_there_is_room_for(tiny, edited, pool, monkeypatch):
    """The likest stay; where not even one fits, it says so."""
    vlm: VLM = tiny("llava")
    (all_of_them,) = texts(IKE(pool, count=3).fit(vlm, [edited]))
    long = len(vlm.tokenizer.encode(all_of_them + "Prompt: ", add_special_tokens=False))
    asked = len(vlm.prepare([edited.request]).rows[0].ids_T)
    monkeypatch.setattr(vlm.model.config.get_text_config(), "max_position_embeddings", asked + long + 63)
    (fewer,) = texts(IKE(pool, count=3).fit(vlm, [edited]))
    assert all_of_them.endswith(fewer) and fewer.count("New Fact") == 3
    monkeypatch.setattr(vlm.model.config.get_text_config(), "max_position_embeddings", asked + 80)
    with pytest.raises(EditError, match="no room for a demonstration"):
        IKE(pool, count=3).fit(vlm, [edited])


def test_a_demonstration_that_a_case_has_not_copies_it(edited):
    bare = replace(edited, probes=())
    assert [demonstrated(bare, kind).answer for kind in ("copy", "update", "retain")] == ["red"] * 3
    assert demonstrated(edited, "retain").answer == "nobody"


@pytest.mark.parametrize("family", FAMILIES)
def test_demonstrations_first(family, tiny, edited, pool):
    """As if all were written where it stands; a model with its picture before all words is told so."""
    vlm: VLM = tiny(family)
    shown, fact = None, None
    try:
        edit = IKE(pool, count=2, layout="demonstrations-first").fit(vlm, [edited])
    except EditError as error:
        assert "takes its picture before all words" in str(error)
        with pytest.raises(PromptError):
            vlm.prepare([Example("so <image> what ?", edited.request.image)])
        return
    shown, fact = texts(edit)
    assert "New Fact" in shown and fact == "New Fact: what colour is the cup ? red\n"
    asked = [edited.request, *(probe.example for probe in edited.probes)]
    written = [
        replace(one, question=f"{shown}{'<image>' * len(one.pictures)}{fact}Prompt: {one.question}") for one in asked
    ]
    pairs = ((asked, edit), (written, None))
    mine, wanted = ([row.logits_NV for row in vlm.run(vlm.prepare(some), given).rows] for some, given in pairs)
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_layout_is_none_for_the_model_whatever_comes_first(tiny, edited, pool):
    """A request without a picture does not hide that questions with one could not be asked any more."""
    blind = replace(edited, id="blind", request=replace(edited.request, image=None))
    with pytest.raises(EditError, match="takes its picture before all words"):
        IKE(pool, count=2, layout="demonstrations-first").fit(tiny("blip2"), [blind])


def test_of_several_the_likest_is_told(tiny, edited, picture):
    vlm: VLM = tiny("llava")
    other = case("other", "is there a dog ?", "no", picture(2))
    with vlm.using(IKE().fit(vlm, [edited, other])):
        rows = vlm.prepare([edited.request, other.request]).rows
    told = [row.before for row in rows]
    assert told == [
        "New Fact: what colour is the cup ? red\nPrompt: ",
        "New Fact: is there a dog ? no\nPrompt: ",
    ]


def test_texts_are_embedded_once(tiny, edited, pool, monkeypatch):
    vlm: VLM = tiny("llava")
    calls: list[int] = []
    whole = IKE.own_features
    monkeypatch.setitem(
        sys.modules["vlmend.editors.ike"]._FEATURES,
        "own",
        lambda self, vlm, cases: calls.append(len(cases)) or whole(self, vlm, cases),
    )
    editor = IKE(pool, count=2)
    for _ in range(3):
        editor.fit(vlm, [edited])
    assert calls == [5, 1, 1, 1]


def test_sentence_encoder(tiny, edited, pool, monkeypatch):
    """By its vectors alone; without the package it says what to install."""
    vlm: VLM = tiny("llava")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EditError, match="pip install sentence-transformers"):
        IKE(pool, features="sentence-transformers").fit(vlm, [edited])

    class Encoder:
        def __init__(self, name: str) -> None:
            assert name == "mine"

        def encode(self, texts: list[str]) -> list[list[float]]:
            return [[1.0, 0.0] if "song" in text or "cup" in text else [0.0, 1.0] for text in texts]

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Encoder))
    editor = IKE(pool, count=1, shares=(1, 0, 0), features="sentence-transformers", encoder="mine")
    (text,) = texts(editor.fit(vlm, [edited]))
    assert text.startswith("New Fact: who wrote the song ? nobody\n")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"layout": "upside-down"}, "layout of ike is"),
        ({"features": "none"}, "features of ike is"),
        ({"count": 0}, "count of ike is at least 1"),
        ({"shares": (0, 0, 0)}, "not all of them 0"),
        ({"fact": "it is so"}, "must have a place for the"),
        ({"fact": "{answer} {who}"}, "alone"),
    ],
)
def test_settings_that_are_none(tiny, edited, settings, problem):
    with pytest.raises(EditError, match=problem):
        IKE(**settings).fit(tiny("llava"), [edited])


def test_the_demo_model_heeds_it():
    """What it was taught of facts in context (its card) reaches questions about pictures: targets are said."""
    vlm = vlmend.load("demo")
    cases = cases_of(vlm, "renamed", "eval", 6, seed=3)
    editor = IKE(fact="new fact: {question} {answer}\n", prompt="prompt: ")
    said = []
    for one in cases:
        asked = vlm.prepare([one.request])
        edit = editor.fit(vlm, [one])
        before, after = (vlm.run(asked, given).rows[0] for given in (None, edit))
        losses = [float(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N)) for row in (before, after)]
        assert losses[1] < losses[0]
        said.append(vlm.generate(asked, edit)[0] == one.request.answer)
    assert sum(said) >= 3
