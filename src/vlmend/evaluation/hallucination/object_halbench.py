"""Object HalBench as RLAIF-V counts it (Rohrbach et al. 2018, arXiv 1809.02156; RLAIF-V, arXiv 2405.17220).

An extractor lists the objects that an answer names; a word counts once per answer. *Response* hallucination is the
share of answers with an object that is not there among the answers that name any of COCO's (``CHAIRs_refine`` in the
published ``eval_gpt_obj_halbench.py``, not CHAIR_s); *mention* hallucination is the share of such objects among all of
COCO's that are named. An answer of three words or fewer names none.

The published extractor is a hosted model that is no longer served (gpt-3.5-turbo-0613), followed by spaCy's parts of
speech. Here it is whatever the caller gives (``extracting.py`` asks any endpoint); the result names it, and numbers of
different extractors cannot be compared.
The published list of synonyms is CC BY-NC data and is not part of this package: read your copy with
``data.formats.coco.read_synonyms``.

| protocol | what is done with an extracted phrase |
|---|---|
| ``object-halbench`` | plurals of listed words are made singular; then its double words count, else its last word |
| ``object-halbench-exact`` | it is compared with the list as it is: for an extractor that already did all this |
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmend.data.questions import Answer, Key
from vlmend.errors import UnknownNameError
from vlmend.evaluation.failure import Failure
from vlmend.evaluation.hallucination.answering import known
from vlmend.evaluation.hallucination.chair import CaptionRecord, fingerprint, judged
from vlmend.evaluation.hallucination.naming import Named, PublishedWords, lemma_of_list, pairs_of, stripped_lists
from vlmend.evaluation.hallucination.rates import Rated, length, rate, words_in
from vlmend.evaluation.stats import Estimate

__all__ = [
    "PROTOCOLS",
    "Extractor",
    "ObjectHalBenchProtocol",
    "ObjectHalBenchResult",
    "is_short",
    "listed_words",
    "object_halbench",
]

_SHORT = 3  # words of an answer that is not looked at


@dataclass(frozen=True)
class Extractor:
    """What lists the objects in an answer.

    Attributes:
        name: what it goes by in results: the model, its version, the prompt's.
        objects: the names in an answer (``text``) to its ``question``.
    """

    name: str
    objects: Callable[[Answer], Sequence[str]]


@dataclass(frozen=True)
class ObjectHalBenchResult(Rated):
    """Object HalBench of some answers; ``nan`` where there is nothing to count.

    Attributes:
        protocol, version, extractor, synonyms: how objects were found.
        n: how many answers.
        response: share with an object that is not there, of the answers that name any of COCO's.
        mention: share of objects that are not there among all that are named.
        chair_s: the same answers as in ``response``, of all answers.
        recall: share of the objects that are there that are named.
        words: mean length.
        records: every answer.
        failed: answers whose objects could not be had; they are not among the ``n``.
    """

    protocol: str
    version: str
    extractor: str
    synonyms: str
    n: int
    response: Estimate
    mention: Estimate
    chair_s: Estimate
    recall: Estimate
    words: Estimate
    records: tuple[CaptionRecord, ...]
    failed: tuple[Failure, ...] = ()


def _heads(phrases: Iterable[str], words: PublishedWords) -> Iterator[str]:
    """Double words of each phrase, else its last word: "two red hot dogs" is a hot dog, "a wooden table" a table."""
    for phrase in phrases:
        found = [word for word in words.words(phrase) if word[0].isalnum()]
        yield from [word for word in found if " " in word] or found[-1:]


def _as_they_are(phrases: Iterable[str], words: PublishedWords) -> Iterator[str]:
    return iter(phrases)


@dataclass(frozen=True)
class ObjectHalBenchProtocol:
    """A way of counting: its name, its version, and what makes words to look up of the phrases that were extracted."""

    name: str
    version: str
    words: Callable[[Iterable[str], PublishedWords], Iterator[str]]


PROTOCOLS: Mapping[str, ObjectHalBenchProtocol] = {
    one.name: one
    for one in (
        ObjectHalBenchProtocol("object-halbench", "1", _heads),
        ObjectHalBenchProtocol("object-halbench-exact", "1", _as_they_are),
    )
}


def object_halbench(
    answers: Iterable[Answer],
    objects: Mapping[Key, Collection[str]],
    extractor: Extractor,
    *,
    synonyms: str,
    protocol: str = "object-halbench",
) -> ObjectHalBenchResult:
    """Object HalBench of answers.

    Args:
        answers: by the ids of their pictures.
        objects: picture -> names of the objects that it shows (``chair.true_objects``).
        extractor: what lists the objects in an answer.
        synonyms: the list of words, a line an object.
        protocol: what is done with the phrases that the extractor gives.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: it is not known what a picture shows.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError("Object HalBench protocol", protocol, PROTOCOLS)
    way, words, given = PROTOCOLS[protocol], _words(synonyms), list(answers)
    known((one.id for one in given), objects)
    records = tuple(judged(one, _mentions(one, extractor, way, words), objects[one.id]) for one in given)
    return ObjectHalBenchResult(
        protocol=way.name,
        version=way.version,
        extractor=extractor.name,
        synonyms=fingerprint(synonyms),
        n=len(records),
        response=rate((one.picture, bool(one.invented)) for one in records if one.mentions),
        mention=rate((one.picture, named in one.invented) for one in records for named in one.mentions),
        chair_s=rate((one.picture, bool(one.invented)) for one in records),
        recall=rate((one.picture, name in one.named) for one in records for name in one.truth),
        words=length((one.picture, one.words) for one in records),
        records=records,
    )


def listed_words(synonyms: str) -> Extractor:
    """An extractor that needs no model: the words of the list that an answer has, whatever it says of them."""
    words = _words(synonyms)
    return Extractor("listed-words", lambda answer: [named.word for named in words.find(answer.text)])


def is_short(answer: Answer) -> bool:
    """Whether an answer is not looked at, and names nothing."""
    return words_in(answer.text) <= _SHORT


def _words(synonyms: str) -> PublishedWords:
    lists = stripped_lists(synonyms)
    return PublishedWords(lists, lemma_of_list, pairs_of(lists))


def _mentions(
    answer: Answer, extractor: Extractor, way: ObjectHalBenchProtocol, words: PublishedWords
) -> Sequence[Named]:
    if is_short(answer):
        return ()
    return words.named(list(dict.fromkeys(way.words(extractor.objects(answer), words))))
