"""The VQA challenge's answer processing: the rules of its description, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.evaluation.vqa import vqa_matches, vqa_normalised


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("Red Car", "red car"),
        ("yes.", "yes"),
        ("3.5 inches", "3.5 inches"),
        ("U.S.A.", "usa"),
        ("two dogs", "2 dogs"),
        ("Ten", "10"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("a man on the bench", "man on bench"),
        ("dont walk", "don't walk"),
        ("it isnt", "it isn't"),
        ("don\u2019t", "don't"),
        ("well, its fine", "well its fine"),
        ("girl's", "girl's"),
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("black-and-white", "black and white"),
        ("[left]/right?", "left right"),
        ("snow_board", "snow board"),
        ("The", "the"),
        ("!", "!"),
        ("", ""),
    ],
)
def test_rules(text, alike):
    assert vqa_normalised(text) == alike


@pytest.mark.parametrize(
    ("said", "accepted", "right"),
    [
        ("Two.", ["2"], True),
        ("the 2 dogs", ["two dogs"], True),
        ("1,000", ["1000"], True),
        ("3.5", ["35"], False),
        ("girls", ["girl's"], False),
        ("blue", ["navy", "Blue!"], True),
        ("blue", [], False),
    ],
)
def test_matches(said, accepted, right):
    assert vqa_matches(said, accepted) is right


@given(st.text(alphabet=st.sampled_from("abt h,.!?'-_:12 the\n"), max_size=30))
def test_what_is_alike_stays_alike(text):
    once = vqa_normalised(text)
    assert vqa_normalised(once) == once or "." in once
    assert vqa_normalised(f"  {text.upper()}\t") == vqa_normalised(text.lower())
    assert vqa_matches(text, [text])
