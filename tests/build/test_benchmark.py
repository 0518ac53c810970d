"""The steps together, on a tiny model that is always wrong: what is said of each record, and what stays on one side."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

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

    def reworded(self, question: str, rng: random.Random) -> str | None:
        return None

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


def test_what_cannot_be_used_is_found_before_anything_is_asked(tiny, cases, tmp_path):
    for plan in (Plan(rephraser=Gone()), Plan(painter=Gone()), Plan(scorer=Gone())):
        with pytest.raises(VlmendError, match="nobody there"):
            built(tiny("llava"), cases, tmp_path / "bench", plan)
        assert not (tmp_path / "bench").exists()


def test_two_records_of_one_id(tiny, cases, tmp_path):
    with pytest.raises(VlmendError, match="two records are called 'r1'"):
        built(tiny("llava"), [*cases, cases[1]], tmp_path / "bench", Plan())
