"""AMBER (Wang et al. 2023, arXiv 2311.07397): descriptions and yes/no questions, judged by annotations.

*Descriptions.* The nouns of an answer that are in the benchmark's vocabulary are its mentions. One is grounded if it
names an annotated object, or a word associated with one, or is similar to either, or is one of ``SAFE_WORDS``. CHAIR =
mentions that are not grounded / mentions; Cover = annotated objects that are named / annotated objects; Hal = answers
with a mention that is not grounded / answers; Cog: what annotators expected a model to make up.

| protocol | Cover | Cog |
|---|---|---|
| ``amber`` | two alike count once; a noun covers all it may stand for | share of mentions, as in the paper |
| ``amber-code`` | of two alike the second is never covered; a noun covers one | share of the expected words |

``amber-code`` is what the published ``inference.py`` does. Published numbers find nouns with NLTK's tagger and call
words similar whose vectors' cosine in spaCy's ``en_core_web_lg`` is over 0.8. Both are instruments that the caller may
give; the result names them. Without vectors no word is similar to another: CHAIR and Hal are higher than published.

*Yes/no questions.* No is the positive answer, so that precision and recall are about what is not there.

| protocol | an answer that is neither yes nor no |
|---|---|
| ``amber-first-word`` | is wrong: the first word must be yes or no, in any case |
| ``amber-code`` | is wrong, and so is any but just "Yes" or "No", as published |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from vlmend.data.formats.amber import Associations
from vlmend.data.objects import Vocabulary
from vlmend.data.questions import Answer, Description, Key, YesNo, YesNoQuestion
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.evaluation.hallucination.answering import answered
from vlmend.evaluation.hallucination.rates import Rated, length, rate, words_in
from vlmend.evaluation.hallucination.yes_no import YesNoProtocol, YesNoResult, asked, first_word
from vlmend.evaluation.stats import Estimate

__all__ = [
    "NEVER_SIMILAR",
    "PROTOCOLS",
    "SAFE_WORDS",
    "YES_NO_PROTOCOLS",
    "AmberProtocol",
    "AmberResult",
    "DescriptionRecord",
    "Nouns",
    "Similarity",
    "amber_describing",
    "amber_score",
    "amber_yes_no",
    "vocabulary_of",
]

SAFE_WORDS: frozenset[str] = frozenset(
    {"orange", "snack", "line", "camera", "light", "shoe", "sign", "range", "individual"}
)
"""Words that count as grounded in every picture (``data/safe_words.txt`` of the published code, Apache-2.0)."""


@dataclass(frozen=True)
class Nouns:
    """What finds the nouns of a text, each as often as it occurs, singular: its name in results, and the function."""

    name: str
    find: Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Similarity:
    """Whether two words mean nearly the same: its name in results, and the function."""

    name: str
    similar: Callable[[str, str], bool]


NEVER_SIMILAR: Similarity = Similarity("none", lambda one, other: False)

_Target = tuple[str, int]  # a word, and which annotated object it stands for


@dataclass(frozen=True)
class AmberProtocol:
    """A way of counting.

    Attributes:
        name, version: what its numbers go by.
        distinct: whether objects annotated twice count once, and a noun counts for all objects it stands for.
        cog_of_mentions: whether Cog is a share of mentions; else of the words that annotators expected.
    """

    name: str
    version: str
    distinct: bool
    cog_of_mentions: bool


PROTOCOLS: Mapping[str, AmberProtocol] = {
    one.name: one
    for one in (
        AmberProtocol("amber", "1", distinct=True, cog_of_mentions=True),
        AmberProtocol("amber-code", "1", distinct=False, cog_of_mentions=False),
    )
}


@dataclass(frozen=True, slots=True)
class DescriptionRecord:
    """One description.

    ``mentions`` are its nouns in the vocabulary, ``invented`` those that are not grounded, ``tempted`` those that
    annotators expected; ``covered`` and ``expected`` say of every annotated object, and of every word that annotators
    expected, whether it is named.
    """

    id: Key
    text: str
    mentions: tuple[str, ...]
    invented: tuple[str, ...]
    tempted: tuple[str, ...]
    truth: tuple[str, ...]
    covered: tuple[bool, ...]
    hallu: tuple[str, ...]
    expected: tuple[bool, ...]
    words: int


@dataclass(frozen=True)
class AmberResult(Rated):
    """AMBER of some descriptions; ``nan`` where there is nothing to count.

    Attributes:
        protocol, version, nouns, similarity: how it was counted, and with which instruments.
        n: how many descriptions.
        chair: share of mentions that are not grounded; its ``n`` is that of mentions.
        cover: share of annotated objects that are named.
        hal: share of descriptions with a mention that is not grounded.
        cog: as the protocol has it.
        words: mean length.
        records: every description.
    """

    protocol: str
    version: str
    nouns: str
    similarity: str
    n: int
    chair: Estimate
    cover: Estimate
    hal: Estimate
    cog: Estimate
    words: Estimate
    records: tuple[DescriptionRecord, ...]


def amber_describing(
    questions: Sequence[Description],
    answers: Iterable[Answer],
    associations: Associations,
    *,
    protocol: str = "amber",
    nouns: Nouns | None = None,
    similarity: Similarity = NEVER_SIMILAR,
) -> AmberResult:
    """AMBER's generative part.

    Args:
        questions: the pictures' annotations.
        answers: descriptions under the same ids.
        associations: object -> words that may stand for it (``relation.json``); all of them are the vocabulary.
        protocol: how Cover and Cog are counted.
        nouns: what finds nouns; by default the words of the vocabulary and their plurals, whatever part of speech.
        similarity: when a word may stand for another one; never by default.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: questions and answers do not belong together, or an annotated object has no associations.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError("AMBER protocol", protocol, PROTOCOLS)
    way, finder = PROTOCOLS[protocol], vocabulary_of(associations) if nouns is None else nouns
    texts = answered([one.id for one in questions], answers)
    judge, vocabulary = _Judge(associations, similarity.similar, way.distinct), set(_words(associations))
    records = tuple(
        judge.record(one, texts[one.id], [noun for noun in finder.find(texts[one.id]) if noun in vocabulary])
        for one in questions
    )
    return AmberResult(
        protocol=way.name,
        version=way.version,
        nouns=finder.name,
        similarity=similarity.name,
        n=len(records),
        chair=rate((one.id, hit) for one in records for hit in _among(one.mentions, one.invented)),
        cover=rate((one.id, hit) for one in records for hit in one.covered),
        hal=rate((one.id, bool(one.invented)) for one in records),
        cog=rate(
            (one.id, hit)
            for one in records
            for hit in (_among(one.mentions, one.tempted) if way.cog_of_mentions else one.expected)
        ),
        words=length((one.id, one.words) for one in records),
        records=records,
    )


def amber_yes_no(
    questions: Sequence[YesNoQuestion], answers: Iterable[Answer], *, protocol: str = "amber-first-word"
) -> YesNoResult:
    """AMBER's discriminative part: scores of all questions and of each kind of them.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: questions and answers do not belong together one by one.
    """
    if protocol not in YES_NO_PROTOCOLS:
        raise UnknownNameError("AMBER protocol for yes/no questions", protocol, YES_NO_PROTOCOLS)
    return asked(questions, answers, YES_NO_PROTOCOLS[protocol])


def amber_score(described: AmberResult, asked: YesNoResult) -> float:
    """The paper's one number, in percent: the mean of 100 - CHAIR and F1."""
    return 50 * (1 - described.chair.mean + asked.scores.f1.mean)


def vocabulary_of(associations: Associations) -> Nouns:
    """Finds the vocabulary's words and their plurals in a text: no tagger is needed, and a verb may pass for a noun."""
    vocabulary = Vocabulary(dict.fromkeys(_words(associations), ()), others={})
    return Nouns("vocabulary", lambda text: [mention.name for mention in vocabulary.find(text)])


_EXACT: Mapping[str, YesNo] = {"Yes": "yes", "No": "no"}

YES_NO_PROTOCOLS: Mapping[str, YesNoProtocol] = {
    one.name: one
    for one in (
        YesNoProtocol("amber-first-word", "1", "no", first_word, "It is wrong, and counts neither as yes nor as no."),
        YesNoProtocol("amber-code", "1", "no", _EXACT.get, "It is wrong, and so is any but just 'Yes' or 'No'."),
    )
}


def _words(associations: Associations) -> list[str]:
    return list(dict.fromkeys(word for name, others in associations.items() for word in (name, *others)))


def _among(mentions: Sequence[str], some: Sequence[str]) -> Iterator[bool]:
    return (noun in some for noun in mentions)


@dataclass(frozen=True)
class _Judge:
    """Holds mentions against annotations."""

    associations: Associations
    similar: Callable[[str, str], bool]
    distinct: bool

    def record(self, question: Description, text: str, nouns: Sequence[str]) -> DescriptionRecord:
        truth, hallu = self._annotated(question.truth), self._annotated(question.hallu)
        shown, expected = self._targets(question, truth), self._targets(question, hallu)
        covered: set[int] = set()
        guessed: set[int] = set()
        invented: list[str] = []
        tempted: list[str] = []
        for noun in nouns:
            if noun in SAFE_WORDS:
                continue
            exact = self._same(noun, shown)
            standing = exact or self._near(noun, shown)
            covered |= standing
            # The published code looks for what was expected among all nouns but those that are annotated exactly.
            hits = (
                set()
                if exact or (self.distinct and standing)
                else self._same(noun, expected) | self._near(noun, expected)
            )
            guessed |= hits
            invented += [] if standing else [noun]
            tempted += [noun] if hits else []
        return DescriptionRecord(
            id=question.id,
            text=text,
            mentions=tuple(nouns),
            invented=tuple(invented),
            tempted=tuple(tempted),
            truth=truth,
            covered=tuple(place in covered for place in range(len(truth))),
            hallu=hallu,
            expected=tuple(place in guessed for place in range(len(hallu))),
            words=words_in(text),
        )

    def _annotated(self, words: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(words)) if self.distinct else tuple(words)

    def _targets(self, question: Description, words: Sequence[str]) -> list[_Target]:
        """Associated words first, then the annotated ones, as the published code looks through them."""
        for word in words:
            if word not in self.associations:
                raise VlmendError(f"description {question.id!r}: the associations have no '{word}', which is annotated")
        associated = [(other, place) for place, word in enumerate(words) for other in self.associations[word]]
        return associated + [(word, place) for place, word in enumerate(words)]

    def _same(self, noun: str, targets: Sequence[_Target]) -> set[int]:
        return self._taken(place for word, place in targets if word == noun)

    def _near(self, noun: str, targets: Sequence[_Target]) -> set[int]:
        return self._taken(place for word, place in targets if self.similar(noun, word))

    def _taken(self, places: Iterable[int]) -> set[int]:
        """All of them, or the first only."""
        return set(places) if self.distinct else set(islice(places, 1))
