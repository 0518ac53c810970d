"""Locality out of pools: nothing of the edits, each once, evenly, and apart on both sides."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from vlmend import EditCase, Example
from vlmend.build.locality import apart, dealt
from vlmend.data.records import TEXT_LOCALITY


def case(name: str, question: str = "what ?", image=None) -> EditCase:
    return EditCase(name, Example(question, image, "a"))


def test_what_has_to_do_with_an_edit_is_out(picture):
    edits = [case("a", "what is it ?", picture(1))]
    pool = [
        Example("Is it a dog?", picture(1), "no"),
        Example("is it a dog ?", picture(2), "no"),
        Example("is it a cat ?", picture(2), "no"),
        Example("What is it?", None, "me"),
        Example("who is it ?", None, ""),
        Example("who is it ?", None, "me"),
        Example("Who is it?", None, "you"),
    ]
    kept, why = apart(pool, edits)
    assert [(one.question, one.answer) for one in kept] == [("is it a dog ?", "no"), ("who is it ?", "me")]
    assert why == {"picture of an edit": 1, "twice": 2, "question of an edit": 1, "no answer": 1}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 12), st.integers(0, 99))
def test_each_is_asked_as_often_as_the_others_and_on_one_side_alone(first, second, size, seed):
    sides = ([case(f"t{n}") for n in range(first)], [case(f"e{n}") for n in range(second)])
    pool = [Example(f"question {n} ?", None, "b") for n in range(size)]
    made, without = dealt(sides, pool, TEXT_LOCALITY, seed=seed)
    assert not without
    assert [[one.id for one in side] for side in made] == [[one.id for one in side] for side in sides]
    asked = [[probe.example.question for one in side for probe in one.probes] for side in made]
    assert not set(asked[0]) & set(asked[1])
    for side, questions in zip(sides, asked, strict=True):
        counts = [questions.count(one) for one in set(questions)]
        assert len(questions) in (0, len(side))
        assert not counts or max(counts) - min(counts) <= 1
    if size >= first + second:
        assert len({*asked[0], *asked[1]}) == first + second
    assert made == dealt(sides, pool, TEXT_LOCALITY, seed=seed)[0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("rst"), max_size=8), st.lists(st.sampled_from("RST"), max_size=8), st.integers(0, 99))
def test_no_case_is_asked_what_its_own_answers_answer(targets, answers, seed):
    """Neither its target nor what the model says instead, however they are written."""
    rejected = {"r": "s", "s": "t", "t": "r"}
    side = [
        replace(case(str(n)), request=Example("what ?", None, "z", (f"the {one}.",)), rejected=rejected[one])
        for n, one in enumerate(targets)
    ]
    pool = [Example(f"question {n} ?", None, one) for n, one in enumerate(answers)]
    (made,), without = dealt([side], pool, TEXT_LOCALITY, seed=seed)
    for one, target in zip(made, targets, strict=True):
        allowed = {"r", "s", "t"} - {target, rejected[target]}
        assert {probe.example.answer.lower() for probe in one.probes} <= allowed
        free = allowed & {answer.lower() for answer in answers}
        assert bool(one.probes) == bool(free)
        assert (one.id in without) == (bool(pool) and not free)
