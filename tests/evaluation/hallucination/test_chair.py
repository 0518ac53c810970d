from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.formats.coco import read_synonyms
from vlmend.data.questions import Answer
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.evaluation.hallucination import chair, true_objects
from vlmend.evaluation.hallucination.chair import PROTOCOLS
from vlmend.evaluation.hallucination.naming import PublishedWords
from vlmend.evaluation.hallucination.singular import singular_2018, tokens
from vlmend.evaluation.stats import wilson


@pytest.fixture(scope="module")
def captions(golden):
    return [Answer(one["image_id"], one["caption"]) for one in golden["chair"]["captions"]]


@pytest.fixture(scope="module")
def objects(golden):
    return {int(picture): names for picture, names in golden["chair"]["objects"].items()}


@pytest.mark.parametrize(
    ("protocol", "sentences", "mentions"), [("chair-2018", 12, (15, 75)), ("chair-lemma", 13, (17, 77))]
)
def test_the_published_numbers(golden, captions, objects, protocol, sentences, mentions):
    """22 captions: each one's mentions and hallucinations, and the overall rates (12/22 and 15/75; 13/22 and 17/77)."""
    published = golden["chair"][protocol]
    found = chair(captions, objects, protocol=protocol)
    made = [[[one.name for one in record.mentions], [one.name for one in record.invented]] for record in found.records]
    assert made == published["captions"]
    assert found.chair_s == wilson(sentences, 22)
    assert (found.chair_i.mean, found.chair_i.n) == (mentions[0] / mentions[1], mentions[1])
    assert found.chair_i.mean == pytest.approx(published["overall"]["CHAIRi"], abs=1e-12)
    assert found.chair_s.mean == pytest.approx(published["overall"]["CHAIRs"], abs=1e-12)
    if "Recall" in published["overall"]:
        assert found.recall.mean == pytest.approx(published["overall"]["Recall"], abs=1e-12)


def test_the_published_length_counts_words_as_they_are_compared(golden, captions):
    """OPERA's Len: words and punctuation, pairs as one, in hundreds; ours is of words between white space."""
    finder = PROTOCOLS["chair-lemma"].namer(read_synonyms())
    assert isinstance(finder, PublishedWords)
    counted = sum(len(finder.words(one.text)) for one in captions)
    assert counted / 22 / 100 == pytest.approx(golden["chair"]["chair-lemma"]["overall"]["Len"], abs=1e-12)


def test_the_mended_protocol_sees_what_the_published_ones_miss(captions, objects):
    """Caption 1's motor bike, caption 4's cheesecake and caption 17's buses; nothing else differs."""
    mended = chair(captions, objects).records
    published = chair(captions, objects, protocol="chair-2018").records
    differing = {
        one.picture: sorted(named.word for named in one.mentions if named.name not in [m.name for m in other.mentions])
        for one, other in zip(mended, published, strict=True)
        if [named.name for named in one.mentions] != [named.name for named in other.mentions]
    }
    assert differing == {1: ["motor bike"], 4: ["cheesecake"], 17: ["bus", "bus"]}


@pytest.mark.parametrize(
    ("text", "chair_", "lemma", "cut"),
    [
        ("A bus and two buses", ["bus", "bus"], ["bus", "bus"], ["bus"]),
        ("a baby elephant, a baby", ["elephant", "person"], ["elephant", "person"], ["elephant", "person"]),
        ("a passenger train", ["train"], ["train"], ["train"]),
        ("hot dogs and dogs", ["hot dog", "dog"], ["hot dog", "dog"], ["hot dog", "dog"]),
        ("a toilet seat; a seat", ["toilet", "chair"], ["toilet"], ["toilet"]),
        ("a toilet and, far away, a seat", ["toilet", "chair"], ["toilet"], ["toilet"]),
        ("a wine glass, wine glasses", ["wine glass"] * 2, ["wine glass"] * 2, ["wine glass"] * 2),
        ("a stove top oven", ["oven"], ["oven"] * 2, ["oven"] * 2),
        ("three policemen, knives", ["person", "knife"], ["person", "knife"], ["person", "knife"]),
        ("people on skis by a train track", ["person", "skis"], ["person", "skis"], ["person", "skis"]),
        ("five o'clock, a clock", ["clock"], ["clock"], ["clock"]),
        ("nothing", [], [], []),
    ],
)
def test_mentions(text, chair_, lemma, cut):
    for protocol, names in (("chair", chair_), ("chair-lemma", lemma), ("chair-2018", cut)):
        (record,) = chair([Answer(1, text)], {1: ()}, protocol=protocol).records
        assert [one.name for one in record.mentions] == names, protocol


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("bus", "bu"),
        ("buses", "bus"),
        ("glass", "glas"),
        ("glasses", "glass"),
        ("knives", "knife"),
        ("wolves", "wolf"),
        ("locomotives", "locomotive"),
        ("women", "woman"),
        ("puppies", "puppy"),
        ("scissors", "scissors"),
        ("benches", "bench"),
        ("potatoes", "potato"),
        ("horses", "horse"),
        ("his", "hi"),
        ("dog", "dog"),
    ],
)
def test_singular_as_in_2018(word, singular):
    assert singular_2018(word) == singular


def test_tokens():
    said = "A well-lit room: the dog's bowl (red), and/or \u201ctwo\u201d cats."
    words = "a well-lit room : the dog 's bowl ( red ) , and/or \u201c two \u201d cats ."
    assert tokens(said) == words.split()


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_what_is_there(protocol):
    """Annotated categories, under the list's names, and what the reference captions name."""
    instances = {7: {"dining table", "hair drier"}, 9: {"tv"}}
    references = {7: ["A woman at a desk.", "Two dogs."], 8: ["nothing at all"]}
    found = true_objects(instances, references, protocol=protocol)
    assert found == {7: {"dining table", "hair drier", "person", "dog"}, 8: frozenset(), 9: {"tv"}}


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_every_category_is_in_the_list(protocol):
    names = [line.split(",")[0] for line in read_synonyms().splitlines() if line.strip()]
    assert len(names) == 80
    assert true_objects({1: names}, {}, protocol=protocol) == {1: set(names)}
    with pytest.raises(VlmendError, match="the list of synonyms has no 'wardrobe'"):
        true_objects({1: ["wardrobe"]}, {}, protocol=protocol)


def test_errors():
    with pytest.raises(VlmendError, match="it is not known what picture 3 shows"):
        chair([Answer(3, "a dog")], {1: ()})
    with pytest.raises(UnknownNameError, match="no CHAIR protocol named 'chair-nltk'; there are: chair, chair-2018"):
        chair([], {}, protocol="chair-nltk")


def test_a_result_says_what_made_it():
    own = chair([Answer(1, "a vole")], {1: ["mouse"]}, synonyms="mouse, vole\n")
    bundled = chair([Answer(1, "a vole")], {1: ["mouse"]})
    assert (own.recall.mean, bundled.recall.mean) == (1.0, 0.0)
    assert math.isnan(bundled.chair_i.mean), "nothing was named"
    plain = json.loads(json.dumps(own.to_json(), allow_nan=False))
    assert (plain["protocol"], plain["version"], plain["n"]) == ("chair", "1", 1)
    assert plain["synonyms"] != bundled.to_json()["synonyms"]
    assert plain["records"][0]["mentions"] == [{"word": "vole", "name": "mouse"}]


NAMES = ["dog", "cat", "car", "boat", "person", "pizza", "wine glass", "hot dog", "bird"]
saids = st.lists(st.lists(st.sampled_from([*NAMES, "sky"]), max_size=5), min_size=1, max_size=6)
shown = st.lists(st.sets(st.sampled_from(NAMES[:-1])), min_size=6, max_size=6)


def told(said):
    return [Answer(picture, " ".join(f"There is a {name}." for name in names)) for picture, names in enumerate(said)]


@given(saids, shown, st.sampled_from(list(PROTOCOLS)), st.randoms())
def test_rates_are_shares_and_order_does_not_matter(said, truth, protocol, rng):
    captions, objects = told(said), dict(enumerate(truth))
    found = chair(captions, objects, protocol=protocol)
    for one in (found.chair_i, found.chair_s, found.recall):
        assert math.isnan(one.mean) or 0.0 <= one.low <= one.mean + 1e-12 <= one.high + 2e-12 <= 1.0 + 3e-12
    rng.shuffle(captions)
    again = chair(captions, objects, protocol=protocol)
    assert repr((again.chair_i, again.chair_s, again.recall, again.words)) == repr(
        (found.chair_i, found.chair_s, found.recall, found.words)
    )


@given(saids, shown, st.integers(0, 5), st.sampled_from(list(PROTOCOLS)))
def test_another_hallucination_never_lowers_chair(said, truth, place, protocol):
    """A bird is nowhere; what is there stays as well named, and no answer gets shorter."""
    objects, place = dict(enumerate(truth)), place % len(said)
    more = [[*names, "bird"] if index == place else names for index, names in enumerate(said)]
    before, after = (chair(told(one), objects, protocol=protocol) for one in (said, more))
    assert math.isnan(before.chair_i.mean) or after.chair_i.mean >= before.chair_i.mean
    assert after.chair_s.mean >= before.chair_s.mean
    assert repr(after.recall) == repr(before.recall)
    assert after.words.mean > before.words.mean
