from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.data.formats.amber import KINDS
from vlmend.data.questions import Answer, Description, YesNoQuestion
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.evaluation.hallucination import amber_describing, amber_score, amber_yes_no
from vlmend.evaluation.hallucination.amber import PROTOCOLS, Nouns, Similarity

KIND = {"Exsitence": "existence", "Attribute": "attribute", "State": "state", "Number": "number", "Action": "action"}


def printed(lines, start, *names):
    """The numbers that the published evaluator prints under a heading."""
    place = next(index for index, line in enumerate(lines) if line.startswith(start)) + 1
    shown = dict(line.split(": ") for line in lines[place : place + len(names)])
    return {name: float(shown[name]) for name in names}


def in_percent(**rates):
    return {name: round(100 * one.mean, 1) for name, one in rates.items()}


@pytest.fixture(scope="module")
def annotated(golden):
    return {one["id"]: one for one in golden["amber"]["annotations_used"]}


@pytest.fixture(scope="module")
def texts(golden):
    return {one["id"]: one["response"] for one in golden["amber"]["responses"]}


@pytest.mark.parametrize("variant", ["a_similarity_never_fires", "b_given_similar_pairs"])
def test_the_published_numbers_of_descriptions(golden, annotated, texts, variant):
    """The published scorer with its nouns, and with its word vectors replaced by none or by five similar pairs."""
    published = golden["amber"]
    associations = dict.fromkeys(published["vocabulary"], ())
    associations |= {name: tuple(words) for name, words in published["associations_used"].items()}
    pairs = {frozenset(pair) for pair in published["similar_pairs_of_variant_b"]}
    similar = pairs if variant.startswith("b") else set()
    found_nouns = {texts[int(key)]: nouns for key, nouns in published["nouns"].items()}
    questions = [
        Description(key, "", "", tuple(one["truth"]), tuple(one["hallu"]))
        for key, one in annotated.items()
        if one["type"] == "generative"
    ]
    result = amber_describing(
        questions,
        [Answer(one.id, texts[one.id]) for one in questions],
        associations,
        protocol="amber-code",
        nouns=Nouns("published", lambda text: found_nouns[text]),
        similarity=Similarity("pairs", lambda one, other: frozenset((one, other)) in similar),
    )
    expected = printed(published[variant], "Generative", "CHAIR", "Cover", "Hal", "Cog")
    assert in_percent(CHAIR=result.chair, Cover=result.cover, Hal=result.hal, Cog=result.cog) == expected
    assert (result.chair.n, result.cover.n, result.hal.n, result.cog.n) == (19, 33, 5, 26)
    assert (result.nouns, result.similarity) == ("published", "pairs")


def test_the_published_numbers_of_yes_no_questions(golden, annotated, texts):
    """Accuracy, precision, recall and F1 of all questions and of every kind."""
    lines = golden["amber"]["a_similarity_never_fires"]
    questions = [
        YesNoQuestion(key, "", "", one["truth"], KINDS[one["type"]])
        for key, one in annotated.items()
        if one["type"] != "generative"
    ]
    result = amber_yes_no(questions, [Answer(one.id, texts[one.id]) for one in questions], protocol="amber-code")
    names = ("Accuracy", "Precision", "Recall", "F1")
    headings = {"Descriminative": result.scores, "Relation": result.kinds["relation"]}
    headings |= {heading: result.kinds[kind] for heading, kind in KIND.items()}
    for heading, scores in headings.items():
        found = in_percent(Accuracy=scores.accuracy, Precision=scores.precision, Recall=scores.recall, F1=scores.f1)
        assert found == printed(lines, heading, *names), heading
    assert result.positive == "no"
    assert result.scores.n == 72


ASSOCIATIONS = {
    "tree": ("forest",),
    "forest": ("tree",),
    "ship": ("boat",),
    "person": ("man",),
    "dog": (),
    "cloud": (),
    "camera": (),
}


def described(text, *, truth, hallu=(), **options):
    question = Description(1, "", "Describe.", tuple(truth), tuple(hallu))
    return amber_describing([question], [Answer(1, text)], ASSOCIATIONS, **options)


def test_what_counts_as_there():
    found = described("A man, boats, a dog and a cloud; a camera.", truth=["person", "ship"], hallu=["dog"])
    (record,) = found.records
    assert record.mentions == ("man", "boat", "dog", "cloud", "camera")
    assert (record.invented, record.tempted) == (("dog", "cloud"), ("dog",))
    assert (found.chair.mean, found.cover.mean, found.hal.mean, found.cog.mean) == (0.4, 1.0, 1.0, 0.2)
    assert (found.nouns, found.similarity, found.words.mean) == ("vocabulary", "none", 10.0)


def test_the_published_cover_and_cog_under_their_own_name():
    """Of two ships one is never covered; a forest covers the tree that it goes with, and not itself."""
    ships = {"truth": ["ship", "ship"], "hallu": ["dog", "cloud"]}
    assert described("a ship and a dog", **ships).cover.mean == 1.0
    published = described("a ship and a dog", **ships, protocol="amber-code")
    assert (published.cover.mean, published.cog.mean) == (0.5, 0.5)
    woods = {"truth": ["tree", "forest"]}
    assert described("a forest", **woods).records[0].covered == (True, True)
    assert described("a forest", **woods, protocol="amber-code").records[0].covered == (True, False)


def test_similar_words():
    """A similar word is grounded; the published Cog counts it all the same if it was expected."""
    near = Similarity("near", lambda one, other: {one, other} == {"dog", "person"})
    options = {"truth": ["person"], "hallu": ["dog"], "similarity": near}
    assert described("a dog", **options).cog.mean == 0.0
    published = described("a dog", **options, protocol="amber-code")
    assert (published.chair.mean, published.cover.mean, published.cog.mean) == (0.0, 1.0, 1.0)


def test_errors():
    with pytest.raises(VlmendError, match="description 1: the associations have no 'unicorn', which is annotated"):
        described("", truth=["unicorn"])
    with pytest.raises(UnknownNameError, match="no AMBER protocol named 'lg'; there are: amber, amber-code"):
        described("", truth=[], protocol="lg")
    with pytest.raises(UnknownNameError, match="there are: amber-code, amber-first-word"):
        amber_yes_no([], [], protocol="amber")
    with pytest.raises(VlmendError, match="question 1 has no answer"):
        amber_describing([Description(1, "", "", (), ())], [], ASSOCIATIONS)


def test_one_number_and_json():
    described_well = described("a man", truth=["person"])
    right = amber_yes_no([YesNoQuestion(1, "", "", "no", ("existence",))], [Answer(1, "No, it is not.")])
    assert amber_score(described_well, right) == 100.0
    assert right.kinds["existence"] == right.scores
    plain = json.loads(json.dumps(described_well.to_json(), allow_nan=False))
    assert (plain["protocol"], plain["cog"]["mean"], plain["records"][0]["covered"]) == ("amber", 0.0, [True])


WORDS = ["tree", "forest", "boat", "man", "dog", "camera", "nothing"]
annotations = st.lists(st.sampled_from(["tree", "forest", "ship", "person"]), max_size=4)


@given(
    st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=5), annotations), max_size=5),
    st.integers(0, 9),
    st.sampled_from(list(PROTOCOLS)),
    st.randoms(),
)
def test_rates(drawn, place, protocol, rng):
    """Shares, whatever the order; one more cloud, which is nowhere, never lowers CHAIR, Hal or Cog."""
    questions = [Description(index, "", "", tuple(truth), ("cloud",)) for index, (_, truth) in enumerate(drawn)]

    def measured(said):
        answers = [Answer(index, ", ".join(words)) for index, words in enumerate(said)]
        return amber_describing(
            rng.sample(questions, len(questions)), rng.sample(answers, len(answers)), ASSOCIATIONS, protocol=protocol
        )

    said = [words for words, _ in drawn]
    found = measured(said)
    for one in (found.chair, found.cover, found.hal, found.cog):
        assert math.isnan(one.mean) or 0.0 <= one.low <= one.mean + 1e-12 <= one.high + 2e-12 <= 1.0 + 3e-12
    assert repr((measured(said).chair, measured(said).cover)) == repr((found.chair, found.cover))
    if said:
        after = measured(
            [[*words, "cloud"] if index == place % len(said) else words for index, words in enumerate(said)]
        )
        assert math.isnan(found.chair.mean) or after.chair.mean >= found.chair.mean
        assert after.hal.mean >= found.hal.mean
        assert math.isnan(found.cog.mean) or after.cog.mean >= found.cog.mean
        assert repr(after.cover) == repr(found.cover)
