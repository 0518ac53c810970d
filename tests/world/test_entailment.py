"""What follows from an answer is true of the scene and depends on the answer; what is nearby does not."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmend.world.candidates import TASKS, mine
from vlmend.world.captions import mentions
from vlmend.world.catalog import catalog
from vlmend.world.entailment import follows, nearby, recognition, same_question, variation
from vlmend.world.entities import by_name, countries, entailed
from vlmend.world.questions import Question, ask, hop, plural
from vlmend.world.scene import MOST, Scene, Thing, draw_flag_scene, draw_scene

seeds = st.integers(0, 2**40)
ON_SCENES = ("count", "exist", "which", "quadrant", "relation", "neighbour")


def drawn(seed: int, kind: str) -> tuple[Scene, Question, random.Random]:
    """A scene with a question of this kind."""
    rng = random.Random(seed)
    while True:
        scene = draw_scene(rng, rng.choice(("natural", "uniform")))
        if question := ask(scene, kind, rng):
            return scene, question, rng


def holds(scene: Scene, question: Question) -> bool:
    """Whether the world itself would ask this of the scene with this answer."""
    rng = random.Random(0)
    for _ in range(4000):
        asked = ask(scene, question.kind, rng)
        if asked and asked.slots == question.slots:
            return asked.answer == question.answer
    return False


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from(ON_SCENES))
def test_what_follows_on_a_scene_is_true_of_it(seed: int, kind: str) -> None:
    scene, question, _ = drawn(seed, kind)
    for other in follows(scene, question, "something else"):
        assert (other.kind, other.slots) != (question.kind, question.slots)
        if other.kind == "count" and other.answer == "zero":
            assert other.slots["x"] not in {plural(k) for k in scene.counts}
        elif other.kind == "exist" and other.answer == "no":
            assert other.slots["x"] not in scene.counts
        else:
            assert holds(scene, other)


def test_nothing_follows_where_two_answers_agree_on_it() -> None:
    scene, question = Scene("street", ()), Question("count", "two", {"x": "cars"})
    assert follows(scene, question, "three") == []
    assert follows(scene, question, "zero") == [Question("exist", "yes", {"x": "car"})]


def test_a_renamed_flag_takes_over_what_is_told_of_the_other_country() -> None:
    old, new = [c for c in countries() if c.seen and not c.stale][:2]
    scene = draw_flag_scene(random.Random(0), old)
    found = follows(scene, Question("name", new.name), old.name)
    assert {q.slots["rel"]: q.answer for q in found} == {r: now for r, (_, now) in entailed(old, new).items()}
    assert hop(new, "capital") in found
    unknown = follows(scene, Question("name", new.name), "no country at all")
    assert {q.slots["rel"] for q in unknown} == set(new.taught)


def test_a_corrected_fact_is_found_by_every_way_to_it() -> None:
    country = next(c for c in countries() if c.seen and c.stale)
    relation = country.stale or ""
    truth = country.facts[relation]
    scene = draw_flag_scene(random.Random(0), country)
    bridge, told = follows(scene, Question("hop", truth, {"rel": relation}), country.taught[relation])
    assert (bridge.kind, bridge.answer) == ("bridge", f"{country.name}: {truth}")
    assert (told.kind, told.answer, told.slots["x"]) == ("fact", truth, country.name)


def test_a_caption_tells_what_is_there() -> None:
    question = Question("short_caption", "a street with a car.")
    found = follows(Scene("street", ()), question, "a street with a car and a sign.")
    assert found == [Question("exist", "no", {"x": "sign"})]


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(ON_SCENES))
def test_what_is_nearby_speaks_of_something_else(seed: int, kind: str) -> None:
    scene, question, rng = drawn(seed, kind)
    other = nearby(scene, question, rng)
    if other is None:
        return
    assert (other.kind, other.slots) not in [(q.kind, q.slots) for q in follows(scene, question, "something else")]
    about = {*question.slots.values(), question.answer}
    assert not about & {word for x in other.slots.values() for word in (x, plural(x))}
    assert holds(scene, other)


def test_nothing_entailed_is_nearby_on_a_flag() -> None:
    country = next(c for c in countries() if c.seen and not c.stale)
    rng = random.Random(3)
    scene = draw_flag_scene(rng, country)
    kinds = {q.kind for _ in range(60) if (q := nearby(scene, Question("name", country.name), rng))}
    assert {"symbol", "symbol_colour"} <= kinds
    assert not kinds & {"name", "hop", "bridge"}
    relation = sorted(country.asked)[0]
    found = [nearby(scene, Question("hop", "x", {"rel": relation}), rng) for _ in range(60)]
    assert all(q.slots.get("rel") != relation for q in found if q)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from(ON_SCENES))
def test_the_same_question_has_another_answer_elsewhere(seed: int, kind: str) -> None:
    scene, question, rng = drawn(seed, kind)
    if other := same_question(scene, question, rng):
        elsewhere, answer = other
        assert answer != question.answer
        assert holds(elsewhere, Question(question.kind, answer, question.slots))


@pytest.mark.parametrize("kind", ["name", "hop", "short_caption", *ON_SCENES])
def test_the_same_question_is_mostly_found(kind: str) -> None:
    rng = random.Random(5)
    made = 0
    for seed in range(20):
        scene, question, rng = drawn(seed, "exist" if kind in ("name", "hop", "short_caption") else kind)
        if kind in ("name", "hop"):
            country = rng.choice([c for c in countries() if c.seen and c.asked and not c.stale])
            scene = draw_flag_scene(rng, country)
            question = Question("name", country.name) if kind == "name" else hop(country, sorted(country.asked)[0])
        if kind == "short_caption":
            question = Question(kind, "a caption of nothing.")
        made += same_question(scene, question, rng) is not None
    assert made >= 15


@given(seeds)
def test_a_variation_is_a_scene_of_the_world(seed: int) -> None:
    scene, rng = draw_scene(random.Random(seed), "natural"), random.Random(seed)
    other = variation(scene, rng)
    assert abs(len(other.things) - len(scene.things)) <= 1
    assert len(other.things) <= MOST
    assert len({(t.row, t.col) for t in other.things}) == len(other.things)
    assert len({(t.kind, t.colour, t.pattern) for t in other.things}) == len(other.counts)
    assert len(set(scene.counts) - set(other.counts)) <= 2
    flag = variation(draw_flag_scene(rng, countries()[0]), rng)
    assert flag.country
    assert flag.country.seen
    assert flag.country != countries()[0]


@given(seeds)
def test_a_scene_with_no_room_for_one_more_of_its_kinds_varies_too(seed: int) -> None:
    scene = draw_scene(random.Random(seed), "natural")
    full = replace(scene, things=tuple(Thing("cup", "red", "plain", row, col) for row in (0, 1) for col in (0, 1)))
    other = variation(full, random.Random(seed))
    assert len(other.things) in (3, 4)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from((*ON_SCENES, "name")))
def test_what_must_be_recognised_is_seen_in_the_picture(seed: int, kind: str) -> None:
    scene, question, rng = drawn(seed, "exist" if kind == "name" else kind)
    if kind == "name":
        scene = draw_flag_scene(rng, rng.choice(countries()))
        question = Question("name", rng.choice(countries()).name)
    seen = recognition(scene, question)
    assert holds(scene, seen)
    assert seen.kind in ("symbol", "pattern", "place")


def test_renamed_flags_are_known_ones_with_the_name_of_another() -> None:
    task = TASKS["renamed"]
    for seed in range(10):
        made = task.draw("name", random.Random(seed), "eval")
        assert made is not None
        scene, question, _ = made
        assert scene.country is not None
        assert scene.country.name != question.answer
        assert scene.country.seen and by_name()[question.answer].seen
    assert task.counterfactual
    assert not TASKS["evqa"].counterfactual
    assert sum(TASKS["evqa"].shares.values()) == pytest.approx(1.0)
    assert set(mentions("a car")) <= set(catalog().kinds)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(tuple(TASKS["supposed"].shares)), st.sampled_from(("supposed", "standing")))
def test_what_is_supposed_is_an_answer_of_that_kind_and_not_the_true_one(seed: int, kind: str, name: str) -> None:
    task, rng = TASKS[name], random.Random(seed)
    made = task.draw(kind, rng, "eval")
    if made is None:
        return
    scene, question, truth = made
    assert question.answer != truth
    assert holds(scene, replace(question, answer=truth))
    if kind in ("name", "hop"):
        assert scene.country in task.about("eval")
        answers = {c.name if kind == "name" else c.taught.get(question.slots["rel"]) for c in mine("eval")}
        assert question.answer in answers
    assert task.counterfactual and task.once == (name == "standing")
    assert sum(task.shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", TASKS["supposed"].shares)
def test_something_can_be_supposed_of_every_kind(kind: str) -> None:
    drawn = [TASKS["supposed"].draw(kind, random.Random(seed), "train") for seed in range(40)]
    assert sum(one is not None for one in drawn) >= 5
