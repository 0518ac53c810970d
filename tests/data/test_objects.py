from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.objects import Mention, Vocabulary, plurals
from vlmend.errors import VlmendError

LINES = """
person, man, woman, child, baby, passenger, people
dog, puppy
hot dog
bear
teddy bear, teddybear
bus, minibus
chair, seat
toilet
motorcycle,  motor bike, motorbike
knife
cake,  cheesecake
elephant
train
tie, bow tie
skis, ski
mouse
"""
COMMON = Vocabulary.from_lines(LINES)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A hot dog is no dog.", ["hot dog", "dog"]),
        ("two hot-dogs on a\nhot\ndog stand", ["hot dog", "hot dog"]),
        ("A bus stops. Buses wait.", ["bus", "bus"]),
        ("a man riding a motor bike", ["person", "motorcycle"]),
        ("a slice of cheesecake, with knives", ["cake", "knife"]),
        ("Two baby elephants, a baby and an elephant", ["elephant", "person", "elephant"]),
        ("A passenger train with passengers", ["train", "person"]),
        ("The toilet seat is up, the seat is not", ["toilet", "chair"]),
        ("children, women and men with mice", ["person", "person", "person", "mouse"]),
        ("TEDDY BEARS beside a bear", ["teddy bear", "bear"]),
        ("the dog's bone, a dog-friendly place, dogma, underdog", ["dog"]),
        ("a woman in a bow tie on skis", ["person", "tie", "skis"]),
        ("A teddy   bear", ["teddy bear"]),
        ("nothing at all", []),
        ("", []),
    ],
)
def test_mentions(text, names):
    assert [mention.name for mention in COMMON.find(text)] == names


def test_places_are_places_in_the_text():
    text = "İn the park: HOT\u2011DOGS and a Dog"
    assert COMMON.find(text) == [Mention("hot dog", 13, 21), Mention("dog", 28, 31)]
    assert text[13:21] == "HOT\u2011DOGS"


def test_each_once_in_order():
    assert COMMON.mentioned("a chair, dogs and another seat") == ("chair", "dog")
    assert COMMON.names[:3] == ("person", "dog", "hot dog")


def test_what_only_contains_an_object():
    """Hot dogs are no dogs for a vocabulary that knows no hot dogs, unless it is told to take them for dogs."""
    assert Vocabulary({"dog": ()}).mentioned("three hot dogs") == ()
    assert Vocabulary({"dog": ()}, others={}).mentioned("three hot dogs") == ("dog",)
    assert Vocabulary({"dog": ["hot dog"]}).mentioned("three hot dogs") == ("dog",)
    assert Vocabulary({"chair": ["seat"]}).mentioned("a toilet seat") == ()
    assert Vocabulary({"train": ()}, others={"train station": None}).mentioned("a train station, a train") == ("train",)


def test_a_listed_word_is_no_plural():
    vocabulary = Vocabulary({"glass": (), "spectacles": ["glasses"]})
    assert [mention.name for mention in vocabulary.find("a glass, some glasses")] == ["glass", "spectacles"]


@pytest.mark.parametrize(
    ("word", "plural"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("box", "boxes"),
        ("bench", "benches"),
        ("puppy", "puppies"),
        ("toy", "toys"),
        ("knife", "knives"),
        ("shelf", "shelves"),
        ("giraffe", "giraffes"),
        ("potato", "potatoes"),
        ("photo", "photos"),
        ("wine glass", "wine glasses"),
        ("policeman", "policemen"),
        ("mouse", "mice"),
        ("person", "people"),
    ],
)
def test_plurals(word, plural):
    assert plural in plurals(word)


@pytest.mark.parametrize(
    ("synonyms", "problem"),
    [({"tie": ["bow"], "ship": ["Bow"]}, "'Bow' for both 'tie' and 'ship'"), ({"tie": [" "]}, "empty word for 'tie'")],
)
def test_vocabularies_that_cannot_be(synonyms, problem):
    with pytest.raises(VlmendError, match=problem):
        Vocabulary(synonyms)


def test_no_objects():
    assert Vocabulary({}, others={}).find("a dog") == []


words = st.from_regex(r"[a-zé]{2,6}( [a-zé]{2,6})?", fullmatch=True)
listed = st.dictionaries(words, st.just(()), min_size=1, max_size=6)


@given(listed, st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans())))
def test_everything_named_is_found(synonyms, drawn):
    """Names between commas, in either case, singular or plural, are found just where they are."""
    vocabulary = Vocabulary(synonyms, others={})
    names, text, expected = list(synonyms), "", []
    for index, upper, many in drawn:
        name = names[index % len(names)]
        form = next(iter(plurals(name))) if many else name
        if many and form in synonyms:
            continue
        expected.append((len(text), len(text) + len(form)))
        text += (form.upper() if upper else form) + ", "
    assert [(mention.start, mention.end) for mention in vocabulary.find(text)] == expected


@given(listed, st.text(st.characters(codec="utf-8") | st.sampled_from("aé -İſ"), max_size=60))
def test_mentions_are_whole_words_apart(synonyms, text):
    found = Vocabulary(synonyms, others={}).find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    for mention in found:
        assert mention.name in synonyms
        around = text[mention.start - 1 : mention.start] + text[mention.end : mention.end + 1]
        assert not any(letter.isalnum() for letter in around)


def test_many_words_cost_little():
    """Ten thousand more words do not make the search slower by more than a few times."""
    text = "a man rides a motor bike past two parked buses and a hot dog stand. " * 400

    def seconds(vocabulary: Vocabulary) -> float:
        def once() -> float:
            start = time.perf_counter()
            assert len(vocabulary.find(text)) == 1600
            return time.perf_counter() - start

        return min(once() for _ in range(3))

    codes = (f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}qx" for i in range(10_000))
    large = Vocabulary.from_lines(LINES + "thing, " + ", ".join(codes))
    assert seconds(large) < 10 * seconds(COMMON)
