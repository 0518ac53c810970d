"""The steps together, on a tiny model that is always wrong: what is said of each record, and what stays on one side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vlmend import EditCase, Example, Probe
from vlmend.build.benchmark import Plan, build
from vlmend.build.card import statistics
from vlmend.build.errors import Asking
from vlmend.data.records import IMAGE_GENERALITY, TEXT_LOCALITY
from vlmend.errors import VlmendError
from vlmend.models.pictures import save_picture
from vlmend.runs import Run


class Mute:
    """An endpoint that is there and says nothing."""

    at_once = 4
    free = True

    def reworded(self, questions: Sequence[str], rngs: Sequence[random.Random]) -> list[str | None]:
        return [None] * len(questions)

    def check(self) -> None:
        pass


class Gone(Mute):
    """One that is not there."""

    def check(self) -> None:
        raise VlmendError("nobody there")


@pytest.fixture
def cases(tiny, tmp_path, picture) -> list[EditCase]:
    """Pairs that share a second picture, which the model recognises; the last asks what the first does."""
    files = [save_picture(picture(n), tmp_path / f"{n}.png") for n in (1, 2, 3, 4, 5, 6, 1)]
    files[-1] = save_picture(picture(1), tmp_path / "again.png")
    seconds = [save_picture(picture(10 + n), tmp_path / f"second{n}.png") for n in range(3)]
    where = [Example("where is it ?", one, tiny("llava").answer(one, "where is it ?")) for one in seconds]
    made: list[EditCase] = []
    for number, file in enumerate(files):
        request = Example("What is it?" if number == 6 else "what is it ?", file, "a unicorn")
        shown = seconds[number // 2 % 3]
        premises = (where[number // 2 % 3],)
        second = Probe(IMAGE_GENERALITY, Example("what is it ?", shown, "a unicorn"), premises=premises)
        told = Probe(TEXT_LOCALITY, Example(f"what has a horn ({number}) ?", None, "Unicorn!"))
        made.append(EditCase(f"r{number}", request, probes=(second, told)))
    return made


def built(vlm, cases, folder: Path, plan: Plan):
    with Run(folder, {}) as run:
        return build(vlm, cases, folder, plan, run, lambda: None)


def test_each_record_and_side(tiny, cases, tmp_path):
    for seed in range(4):
        plan = Plan(Asking(draws=0), rephraser=Mute(), seed=seed)
        made = built(tiny("llava"), cases, tmp_path / f"bench{seed}", plan)
        sides = [{case.id for case in side} for side in (made.train, made.evaluation)]
        assert sides[0] | sides[1] == {f"r{n}" for n in range(6)}
        second = [case for case in (*made.train, *made.evaluation) if case.probes_of(IMAGE_GENERALITY)]
        assert len(second) == 6
        for pair in ({"r0", "r1"}, {"r2", "r3"}, {"r4", "r5"}):
            assert pair <= sides[0] or pair <= sides[1]
        assert made.clean
        found = statistics(made)
        assert found["dropped"]["asked"] == {"a record before it asks the same": 1}
        assert found["dropped"]["reworded"] == {"a reply without a text": 18}
        assert found["records"]["reworded"]["r0"] == ["a reply without a text"] * 3
        assert found["records"]["dealt"]["r0"] == ["text_locality: its answer is the case's"]
        assert not any(case.probes_of(TEXT_LOCALITY) for case in (*made.train, *made.evaluation))


class Chatty(Mute):
    """Says what it likes: now and then a flaw, once the same of two questions."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.given: list[int] = []

    def reworded(self, questions: Sequence[str], rngs: Sequence[random.Random]) -> list[str | None]:
        self.given.append(len(questions))
        return [self._said(question, rng) for question, rng in zip(questions, rngs, strict=True)]

    def _said(self, question: str, rng: random.Random) -> str | None:
        if "thing" in question:
            return "which of the things there, big and small, ?"
        return rng.choice(
            [None, "I cannot say", f"sure, {question}", f"now {question} {rng.getrandbits(9):o}", f"so, {question}"]
        )


def test_rewordings_do_not_depend_on_the_batch_nor_on_where_it_was_cut_short(tiny, cases, tmp_path):
    asked = [("which thing is small ?", "r0"), ("which thing is large ?", "r1")]
    requests = {name: question for question, name in asked}
    given = [
        replace(
            one, request=replace(one.request, question=requests.get(one.id, f"what is it, number {n} ?")), probes=()
        )
        for n, one in enumerate(cases[:6])
    ]
    found: list[object] = []
    for at_once in (1, 4, 100):
        rephraser, folder = Chatty(at_once), tmp_path / f"bench{at_once}"
        made = built(tiny("llava"), given, folder, Plan(Asking(draws=0), rephraser=rephraser, train=0.0))
        records = statistics(made)["records"]["reworded"]
        assert records["r0"] == records["r1"] == ["the same for other questions"]
        assert sum(made.dropped["reworded"].values()) == sum(map(len, records.values())) > 2
        assert max(rephraser.given) == min(at_once, 6)
        texts = [[probe.example.question for probe in case.probes] for case in made.evaluation]
        found.append((texts, made.dropped))
        log = folder / "records.jsonl"
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(lines[:-4]))
        plan = Plan(Asking(draws=0), rephraser=Chatty(at_once), train=0.0)
        assert built(tiny("llava"), given, folder, plan) == made
        assert sorted(log.read_text().splitlines()) == sorted(map(str.strip, lines))
    assert found[0] == found[1] == found[2]


def test_nothing_is_painted_for_several_pictures(tiny, cases, tmp_path):
    class Painter:
        def painted(self, caption: str, seed: int) -> Image.Image:
            raise AssertionError

        def check(self) -> None:
            pass

    several = (cases[0].request.image, cases[1].request.image)
    case = replace(cases[0], request=replace(cases[0].request, image=several), probes=())
    made = built(tiny("llava"), [case], tmp_path / "bench", Plan(Asking(draws=0), painter=Painter(), train=0.0))
    assert made.dropped["pictured"] == {"none is painted for several": 1}


@pytest.mark.parametrize(("kind", "prompt"), [("caption", "a unicorn"), ("vqa", "what is it ? a unicorn")])
def test_what_the_painter_is_told(tiny, cases, tmp_path, kind, prompt):
    """Of captions the right one alone, without what was asked."""
    told: list[str] = []

    class Painter:
        def painted(self, caption: str, seed: int) -> Image.Image:
            told.append(caption)
            return Image.new("RGB", (16, 16))

        def check(self) -> None:
            pass

    case = replace(cases[0], probes=())
    built(tiny("llava"), [case], tmp_path / "bench", Plan(Asking(kind, draws=0), painter=Painter(), train=0.0))
    assert set(told) == {prompt}


def test_what_cannot_be_used_is_found_before_anything_is_asked(tiny, cases, tmp_path):
    for plan in (Plan(rephraser=Gone()), Plan(painter=Gone()), Plan(scorer=Gone())):
        with pytest.raises(VlmendError, match="nobody there"):
            built(tiny("llava"), cases, tmp_path / "bench", plan)
        assert not (tmp_path / "bench").exists()


def test_two_records_of_one_id(tiny, cases, tmp_path):
    with pytest.raises(VlmendError, match="two records are called 'r1'"):
        built(tiny("llava"), [*cases, cases[1]], tmp_path / "bench", Plan())
