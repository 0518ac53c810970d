"""Errors in good answers: what is checkable, where answers differ, what chat models are told, words said instead."""

from __future__ import annotations

import pytest

import vlmend
from vlmend import Example
from vlmend.alignment.checkable import Checkable, Claim
from vlmend.alignment.inject import NOTHING_TO_CHANGE, Resampler, Rewriter, mode_of
from vlmend.alignment.pairs import LONG, NOTHING_CHECKABLE, SAME, SHORT, Check
from vlmend.alignment.spans import differing
from vlmend.data.formats.coco import read_synonyms
from vlmend.errors import UnknownNameError
from vlmend.models.chat import Said
from vlmend.world.checkable import checkable

COCO = Checkable.of_objects(read_synonyms())
GOOD = "Two red cars stand on the left of a bus."


def test_claims() -> None:
    assert COCO.claims(GOOD) == [
        Claim("count", "two", 0, 3),
        Claim("colour", "red", 4, 7),
        Claim("object", "car", 8, 12),
        Claim("place", "left", 26, 30),
        Claim("object", "bus", 36, 39),
    ]


@pytest.mark.parametrize(
    ("rejected", "kinds"),
    [
        ("Two blue cars stand on the left of a bus.", ("colour",)),
        ("2 red automobiles stand on the left of a bus.", ()),
        ("Three red cars stand on the right of a bus.", ("count", "place")),
        ("Two red cars stand on the left.", ("object",)),
        ("Two red cars are parked on the left of a bus.", ()),
    ],
)
def test_what_is_changed(rejected, kinds) -> None:
    assert set(COCO.changed(GOOD, rejected)) == set(kinds)


@pytest.mark.parametrize(
    ("rejected", "flaw"),
    [
        ("Two blue cars stand on the left of a bus.", None),
        (" two red  cars stand on the left of a bus.", SAME),
        ("Two red cars are parked on the left of a bus.", NOTHING_CHECKABLE),
        ("Two blue cars.", SHORT),
        (GOOD + " There is a dog, too.", LONG),
        ("", "empty"),
    ],
)
def test_flaws(rejected, flaw) -> None:
    assert Check(COCO).flaw(GOOD, rejected) == flaw


def test_any_difference_will_do_where_nothing_is_checked() -> None:
    assert Check(None).flaw("A nice day.", "A dull day.") is None


@pytest.mark.parametrize(
    ("chosen", "rejected", "words"),
    [
        ("a red car", "a blue car", (["red"], ["blue"])),
        ("a car", "a car and a dog", ([], ["and a dog"])),
        ("a car, a dog.", "A car.", ([", a dog"], [])),
        ("same", "same", ([], [])),
        ("", "a", ([], ["a"])),
    ],
)
def test_spans(chosen, rejected, words) -> None:
    first, second = differing(chosen, rejected)
    assert ([chosen[a:b] for a, b in first], [rejected[a:b] for a, b in second]) == words


class Parrot:
    """Replies what it is given, and keeps what it was told."""

    name, at_once = "parrot", 2

    def __init__(self, *replies: str | None) -> None:
        self.given = replies
        self.told: list[str] = []

    def check(self) -> None:
        pass

    def replies(self, tasks, seeds):
        self.told += tasks
        return [Said(None, "rubbish") if text is None else Said(text) for text in self.given]


def test_what_a_chat_model_is_told() -> None:
    parrot = Parrot('Description: "A blue car."', None)
    long = "word " * 12
    examples = [Example("<image>\nDescribe it.", None, long), Example("Which colour?", None, "Red.")]
    said = Rewriter(parrot).worse(examples, [0, 0])
    assert said == [Said("A blue car."), Said(None, "rubbish")]
    assert "Describe it." not in parrot.told[0]  # the question of a description is not shown
    assert parrot.told[0].endswith(f"Description: {long}")
    assert parrot.told[1].endswith("Question: Which colour? Right: Red. Wrong:")


def test_modes() -> None:
    assert [mode_of("auto", "a"), mode_of("auto", "a " * 12), mode_of("description", "a")] == [
        "question",
        "description",
        "description",
    ]
    with pytest.raises(UnknownNameError, match="no kind of answer named 'both'"):
        mode_of("both", "a")  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def demo() -> vlmend.VLM:
    return vlmend.load("demo")


ANSWERS = [
    Example("describe the picture.", None, "a bedroom with a bed, a lamp and two pillows."),
    Example("is there a cup?", None, "yes"),
    Example("what is this?", None, "hello"),
]


def test_another_word_is_said(demo: vlmend.VLM) -> None:
    """One claim is exchanged for another of its kind; the rest stays word for word, but for the article."""
    words = checkable()
    resampler = Resampler(demo, words)
    said = resampler.worse(ANSWERS, [1, 2, 3])
    assert said[2] == Said(None, NOTHING_TO_CHANGE)
    for example, one in zip(ANSWERS[:2], said, strict=False):
        if one.text is None:
            continue
        before, after = words.claims(example.answer or ""), words.claims(one.text)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a.name != b.name]
        assert len(changed) == 1
        assert changed[0][0].kind == changed[0][1].kind
    assert any(one.text for one in said)
    assert resampler.worse(ANSWERS[:1], [1]) == said[:1]  # whatever else is done with it


def test_the_rest_is_said_too(demo: vlmend.VLM) -> None:
    found = [Resampler(demo, checkable(), "said").worse(ANSWERS[:1], [seed])[0].text for seed in range(4)]
    assert any(text and not text.endswith("pillows.") for text in found)


def test_an_article_fits_the_new_word(demo: vlmend.VLM) -> None:
    answer = "a beach with a crab."
    claim = next(one for one in checkable().claims(answer) if one.name == "crab")
    assert Resampler(demo, checkable())._spliced(answer, claim, "umbrella and a ball.") == "a beach with an umbrella."
    assert Resampler(demo, checkable())._spliced(answer, claim, "crab.") is None
