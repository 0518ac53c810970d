"""CHAIR (Rohrbach et al. 2018, arXiv 1809.02156): objects that a caption names and the picture lacks.

CHAIR_i = mentions of objects that are not there / mentions of objects; CHAIR_s = captions with at least one of them /
captions. What is there are COCO's annotated instances and whatever the five reference captions name. Both rates fall
when a caption says less, so that recall and length belong beside them.

| protocol | how objects are found |
|---|---|
| ``chair`` | whole names with plurals made from the singular, spaces around the list's words taken away |
| ``chair-2018`` | as first published: word by word, singular by cutting, so that it never sees a bus |
| ``chair-lemma`` | the same with true singulars, as the later ports have it with WordNet (OPERA, arXiv 2311.17911) |

Only COCO's 80 kinds of object count in any of them. Numbers depend on the list of synonyms; the result names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vlmend.data.formats.coco import read_synonyms
from vlmend.data.questions import Answer, Key
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.evaluation.hallucination.answering import known
from vlmend.evaluation.hallucination.naming import (
    PAIRS,
    Named,
    Namer,
    PublishedWords,
    WholeNames,
    lemma_2018,
    lemma_of_list,
    lists_2018,
)
from vlmend.evaluation.hallucination.rates import Rated, length, rate, words_in
from vlmend.evaluation.stats import Estimate

__all__ = [
    "DEFAULT",
    "PROTOCOLS",
    "CaptionRecord",
    "ChairProtocol",
    "ChairResult",
    "chair",
    "fingerprint",
    "judged",
    "protocol_of",
    "true_objects",
]

DEFAULT = "chair"


@dataclass(frozen=True)
class ChairProtocol:
    """A way of finding objects: its name, its version, and what makes a finder of a list of synonyms."""

    name: str
    version: str
    namer: Callable[[str], Namer]


PROTOCOLS: Mapping[str, ChairProtocol] = {
    one.name: one
    for one in (
        ChairProtocol("chair", "1", WholeNames),
        ChairProtocol("chair-2018", "1", lambda synonyms: PublishedWords(lists_2018(synonyms), lemma_2018, PAIRS)),
        ChairProtocol("chair-lemma", "1", lambda synonyms: PublishedWords(lists_2018(synonyms), lemma_of_list, PAIRS)),
    )
}


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """One caption: every mention in it, those of objects that are not there, and which true objects it names."""

    picture: Key
    text: str
    mentions: tuple[Named, ...]
    invented: tuple[Named, ...]
    named: tuple[str, ...]
    truth: tuple[str, ...]
    words: int


@dataclass(frozen=True)
class ChairResult(Rated):
    """CHAIR of some captions; ``nan`` where there is nothing to count.

    Attributes:
        protocol, version, synonyms: how objects were found, with the fingerprint of the list of words.
        n: how many captions.
        chair_i: share of mentions of objects that are not there; its ``n`` is that of mentions.
        chair_s: share of captions with at least one.
        recall: share of the objects that are there that are named, over all captions.
        words: mean length.
        records: every caption.
    """

    protocol: str
    version: str
    synonyms: str
    n: int
    chair_i: Estimate
    chair_s: Estimate
    recall: Estimate
    words: Estimate
    records: tuple[CaptionRecord, ...]


def chair(
    captions: Iterable[Answer],
    objects: Mapping[Key, Collection[str]],
    *,
    protocol: str = DEFAULT,
    synonyms: str | None = None,
) -> ChairResult:
    """CHAIR of captions.

    Args:
        captions: of pictures, by their ids; a picture may have several.
        objects: picture -> names of the objects that it shows, as ``true_objects`` gives them.
        protocol: how objects are found.
        synonyms: the list of words, a line an object; CHAIR's own by default.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: it is not known what a picture shows.
    """
    words, way = read_synonyms() if synonyms is None else synonyms, protocol_of(protocol)
    namer = _namer(protocol, words)
    given = list(captions)
    known((one.id for one in given), objects)
    records = tuple(judged(one, namer.find(one.text), objects[one.id]) for one in given)
    return ChairResult(
        protocol=way.name,
        version=way.version,
        synonyms=fingerprint(words),
        n=len(records),
        chair_i=rate((one.picture, named in one.invented) for one in records for named in one.mentions),
        chair_s=rate((one.picture, bool(one.invented)) for one in records),
        recall=rate((one.picture, name in one.named) for one in records for name in one.truth),
        words=length((one.picture, one.words) for one in records),
        records=records,
    )


def true_objects(
    instances: Mapping[Key, Collection[str]],
    captions: Mapping[Key, Sequence[str]],
    *,
    protocol: str = DEFAULT,
    synonyms: str | None = None,
) -> dict[Key, frozenset[str]]:
    """Picture -> what it shows: its annotated categories, and the objects that its reference captions name.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: a category is not in the list of synonyms.
    """
    namer = _namer(protocol, read_synonyms() if synonyms is None else synonyms)
    return {
        picture: frozenset(
            [_category(namer, name) for name in instances.get(picture, ())]
            + [named.name for caption in captions.get(picture, ()) for named in namer.find(caption)]
        )
        for picture in {**instances, **captions}
    }


def judged(caption: Answer, mentions: Sequence[Named], truth: Collection[str]) -> CaptionRecord:
    """The record of a caption with these mentions, of a picture that shows these objects."""
    names = {one.name for one in mentions}
    return CaptionRecord(
        picture=caption.id,
        text=caption.text,
        mentions=tuple(mentions),
        invented=tuple(one for one in mentions if one.name not in truth),
        named=tuple(sorted(names.intersection(truth))),
        truth=tuple(sorted(set(truth))),
        words=words_in(caption.text),
    )


def protocol_of(name: str) -> ChairProtocol:
    """A protocol of CHAIR by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("CHAIR protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def fingerprint(text: str) -> str:
    """What tells a list of words from another one."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=8)
def _namer(protocol: str, synonyms: str) -> Namer:
    return protocol_of(protocol).namer(synonyms)


def _category(namer: Namer, name: str) -> str:
    found = namer.name(name)
    if found is None:
        raise VlmendError(f"the list of synonyms has no '{name}', which is a category of the annotated instances")
    return found
