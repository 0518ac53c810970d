"""What counts as wrong: answers, captions that name what no reference names, and captions without objects."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlmend
from vlmend import Example
from vlmend.build.errors import Asking, Captioned
from vlmend.data.formats import read

SURFER = Example("describe it", None, "a man on a surfboard", ("a surfer on top of a wave with his dog",))
QUIET = Example("describe it", None, "a wide grey sky over the hills")


def test_every_caption_that_the_demo_model_gets_wrong_is_wrong():
    """Each of them shares most of its words with the reference, and names an object more."""
    right = Asking("caption").right
    cases = read(Path(vlmend.__file__).parent / "world" / "demo_cases" / "eic_eval.jsonl")
    assert len(cases) == 5
    for case in cases:
        assert case.rejected is not None
        assert not right(case.rejected, case.request), case.rejected
        assert right(case.request.answer, case.request)


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ("a man and his puppy surfing", True),  # named by two references, in other words
        ("a man on a surfboard with a kite", False),
        ("surfing", False),  # nothing is named, and no words are shared
        ("", False),
    ],
)
def test_objects_of_all_references_count(said, is_right):
    assert Captioned()(said, SURFER) is is_right


def test_captions_without_objects_are_compared_by_their_words():
    right = Captioned()
    assert right("a grey sky over hills", QUIET)
    assert not right("the sky", QUIET)
    assert not right("a grey sky over the hills and a bus", QUIET)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("a cat by a table with a kettle", None),
        ("on a table there is a kettle", None),  # in other words, and without what the first left out or was wrong in
        ("a kettle", "the model does not recognise it"),
        ("a table with a dog", "the model says something else of it"),
        ("", "the model does not recognise it"),
    ],
)
def test_the_same_error_of_captions_is_the_same_object(said, why):
    """A table is recognised, and the kettle that is not there is seen again."""
    right = Captioned("kettle, pot\ntable, desk\ncat\ndog\nvase")
    example = Example("describe it", None, "a vase on a table", ("a desk with a vase",))
    assert right.again(said, "a desk with a pot and a cat", example) == why


def test_the_same_error_of_captions_that_name_nothing_right_or_nothing_at_all():
    right = Captioned("kettle\ntable")
    example = Example("describe it", None, "a table in a wide room")
    assert right.again("there: a kettle", "a kettle", example) is None
    assert right.again("a table", "a kettle", example) == "the model says something else of it"
    assert right.again("the sky over hills", "a grey sky over hills", example) is None
    assert right.again("some people", "a grey sky over hills", example) == "the model says something else of it"


def test_what_is_painted():
    """A caption says what to paint without the words that asked for it; a short answer needs its question."""
    example = Example("describe the picture.", None, "a cup on a table")
    assert Asking("caption").right.shown(example) == "a cup on a table"
    assert Asking("vqa").right.shown(example) == "describe the picture. a cup on a table"


def test_ones_own_words():
    """A kettle is no object of CHAIR's list."""
    kettle, table = "a kitchen with a table and a kettle", Example("describe it", None, "a kitchen with a table")
    assert Captioned()(kettle, table)
    assert not Captioned("kettle, pot\ntable")(kettle, table)
    assert Captioned("")("a kitchen with a table, a bus and a kettle", table)  # no objects at all: by words alone
