"""Locality out of pools: nothing of the edits, each once, evenly, and apart on both sides."""

from __future__ import annotations

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
    pool = [Example(f"question {n} ?", None, "a") for n in range(size)]
    made = dealt(sides, pool, TEXT_LOCALITY, seed=seed)
    assert [[one.id for one in side] for side in made] == [[one.id for one in side] for side in sides]
    asked = [[probe.example.question for one in side for probe in one.probes] for side in made]
    assert not set(asked[0]) & set(asked[1])
    for side, questions in zip(sides, asked, strict=True):
        counts = [questions.count(one) for one in set(questions)]
        assert len(questions) in (0, len(side))
        assert not counts or max(counts) - min(counts) <= 1
    if size >= first + second:
        assert len({*asked[0], *asked[1]}) == first + second
    assert made == dealt(sides, pool, TEXT_LOCALITY, seed=seed)
