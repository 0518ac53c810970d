"""Object HalBench. The published list of synonyms may not be passed on: CHAIR's own and a small one stand in."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.formats.coco import read_synonyms
from vlmend.data.questions import Answer
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.evaluation.hallucination import object_halbench
from vlmend.evaluation.hallucination.object_halbench import PROTOCOLS, Extractor, listed_words

LIST = """
person, woman, wife
dog, puppy
hot dog, frankfurter
elephant
chair, seat
toilet
dining table, table
"""


def gives(*phrases):
    return Extractor("given", lambda answer: phrases)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_the_published_numbers(golden, protocol):
    """RLAIF-V's counting on 22 answers whose objects are given: 14/21 answers, 17/74 objects, 57/61 found."""
    published = golden["object_halbench"]
    answers = [Answer(one["image_id"], one["caption"]) for one in golden["chair"]["captions"]]
    objects = {int(picture): names for picture, names in golden["chair"]["objects"].items()}
    given_objects = Extractor("given", lambda answer: published["extracted"][str(answer.id)])
    found = object_halbench(answers, objects, given_objects, synonyms=read_synonyms(), protocol=protocol)
    assert [[len(one.mentions), len(one.invented)] for one in found.records] == published["answers"]
    overall = published["overall"]
    assert (found.n, found.response.n, found.mention.n, found.recall.n) == (22, 21, 74, 61)
    assert found.response.mean == pytest.approx(overall["CHAIRs_refine"], abs=1e-12)
    assert found.mention.mean == pytest.approx(overall["CHAIRi"], abs=1e-12)
    assert found.chair_s.mean == pytest.approx(overall["CHAIRs"], abs=1e-12)
    assert found.recall.mean == pytest.approx(overall["obj_rec"], abs=1e-12)
    assert found.words.mean == pytest.approx(overall["avg_word_len"], abs=1e-12)


@pytest.mark.parametrize(
    ("phrases", "names", "exact"),
    [
        (["woman", "dog", "woman", "sky"], ["person", "dog"], ["person", "dog"]),
        (["women", "dogs"], ["person", "dog"], []),
        (["woman", "person"], ["person", "person"], ["person", "person"]),
        (["two big hot dogs"], ["hot dog"], []),
        (["a baby elephant"], ["elephant"], []),
        (["a wooden table."], ["dining table"], []),
        (["table leg"], [], []),
        (["dining tables"], ["dining table"], []),
        (["toilet", "seat"], ["toilet"], ["toilet"]),
        (["seat"], ["chair"], ["chair"]),
        (["", "..."], [], []),
        ([], [], []),
    ],
)
def test_from_phrases_to_objects(phrases, names, exact):
    """A word counts once in an answer, two words for one object twice, as published."""
    for protocol, expected in (("object-halbench", names), ("object-halbench-exact", exact)):
        found = object_halbench([Answer(1, "a b c d")], {1: ()}, gives(*phrases), synonyms=LIST, protocol=protocol)
        assert [one.name for one in found.records[0].mentions] == expected, protocol


def test_short_answers_are_not_looked_at():
    asked = []
    extractor = Extractor("spy", lambda answer: asked.append(answer.id) or ["dog"])
    answers = [Answer(1, "A small dog."), Answer(2, "A very small dog.")]
    found = object_halbench(answers, {1: (), 2: ()}, extractor, synonyms=LIST)
    assert asked == [2]
    assert (found.response.mean, found.response.n, found.chair_s.mean) == (1.0, 1, 0.5)


def test_words_of_the_list_without_a_model():
    extractor = listed_words(LIST)
    assert list(extractor.objects(Answer(1, "Two women eat frankfurters at a table."))) == [
        "woman",
        "frankfurter",
        "table",
    ]
    found = object_halbench([Answer(1, "The wives of two puppies.")], {1: ["dog"]}, extractor, synonyms=LIST)
    assert [one.name for one in found.records[0].invented] == ["person"]
    assert found.extractor == "listed-words"


def test_errors_and_json():
    with pytest.raises(VlmendError, match="it is not known what picture 'x' shows"):
        object_halbench([Answer("x", "")], {}, gives(), synonyms=LIST)
    with pytest.raises(UnknownNameError, match="no Object HalBench protocol named 'gpt'"):
        object_halbench([], {}, gives(), synonyms=LIST, protocol="gpt")
    plain = json.loads(json.dumps(object_halbench([], {}, gives(), synonyms=LIST).to_json(), allow_nan=False))
    assert (plain["protocol"], plain["extractor"], plain["response"]["mean"]) == ("object-halbench", "given", None)


WORDS = ["woman", "dog", "elephant", "table", "sky"]


@given(
    st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=5), st.sets(st.sampled_from(["person", "dog"])))),
    st.integers(0, 9),
    st.randoms(),
)
def test_rates(drawn, place, rng):
    """Shares, whatever the order; one more object that is not there never lowers them."""
    objects = {index: truth for index, (_, truth) in enumerate(drawn)}

    def measured(said):
        answers = [Answer(index, " ".join(["It", "shows", "these", "things", *words])) for index, words in said]
        return object_halbench(answers, objects, listed_words(LIST), synonyms=LIST)

    said = [(index, words) for index, (words, _) in enumerate(drawn)]
    found = measured(said)
    for one in (found.response, found.mention, found.chair_s, found.recall):
        assert math.isnan(one.mean) or 0.0 <= one.low <= one.mean + 1e-12 <= one.high + 2e-12 <= 1.0 + 3e-12
    shuffled = rng.sample(said, len(said))
    assert repr(measured(shuffled).mention) == repr(found.mention)
    if said:
        more = [(index, [*words, "seat"] if index == place % len(said) else words) for index, words in said]
        after = measured(more)
        assert math.isnan(found.mention.mean) or after.mention.mean >= found.mention.mean
        assert math.isnan(found.response.mean) or after.response.mean >= found.response.mean
