"""Which objects of COCO a text names: as the published evaluators find them, and as ``data/objects.py`` does.

The published way goes word by word. Words are made singular one by one, pairs on a list of double words become one
("hot dog"; "baby elephant" is an elephant and no person), and a word names an object if it stands in the list of
synonyms just so. Entries of more than two words are never found, nor are those that a list gives with white space
before them ("motor bike" and "cheesecake" in CHAIR's own).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from vlmend.data.objects import OTHER_THINGS, Vocabulary, plurals
from vlmend.evaluation.hallucination.singular import singular_2018, tokens

__all__ = [
    "PAIRS",
    "Named",
    "Namer",
    "PublishedWords",
    "WholeNames",
    "lemma_2018",
    "lemma_of_list",
    "lists_2018",
    "pairs_of",
    "stripped_lists",
]

_PAIRS = (
    "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light",
    "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier", "potted plant",
    "laptop computer", "home plate", "train track",
)  # fmt: skip
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
PAIRS: Mapping[str, str] = {
    **{pair: pair for pair in _PAIRS},
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}
"""Two words, both singular -> what they are taken for (Rohrbach et al. 2018 and OPERA's port)."""

_NO_OBJECTS: Mapping[str, str | None] = dict.fromkeys(("home plate", "train track", "o'clock", "o\u2019clock"))


@dataclass(frozen=True, slots=True)
class Named:
    """An object named in a text: the word or words, and the object's name."""

    word: str
    name: str


class Namer(Protocol):
    """What finds the objects of one list of synonyms."""

    def find(self, text: str) -> list[Named]:
        """Every mention in a text, in order."""
        ...

    def name(self, word: str) -> str | None:
        """The object that one word or name stands for as it is, ``None`` if for none."""
        ...


@dataclass(frozen=True)
class PublishedWords:
    """The published way.

    Args:
        lists: an object each, all its words, its name first.
        lemma: makes a word singular, given singulars of the plurals of all single words that may matter.
        pairs: two words, both singular -> what they are taken for.
    """

    lists: Sequence[Sequence[str]]
    lemma: Callable[[str, Mapping[str, str]], str]
    pairs: Mapping[str, str]

    @cached_property
    def _name(self) -> Mapping[str, str]:
        return {word: words[0] for words in self.lists for word in words}

    @cached_property
    def _singular(self) -> Mapping[str, str]:
        """Plural -> singular; a word that is listed is its own."""
        single = dict.fromkeys(part for name in (*self._name, *self.pairs) for part in name.lower().split())
        return {plural: word for word in single for plural in plurals(word)} | {word: word for word in single}

    def words(self, text: str) -> list[str]:
        """All words of a text as they are compared, pairs as one."""
        single = [self.lemma(token, self._singular) for token in tokens(text)]
        words: list[str] = []
        place = 0
        while place < len(single):
            pair = self.pairs.get(" ".join(single[place : place + 2]))
            words.append(single[place] if pair is None else pair)
            place += 1 if pair is None else 2
        return words

    def named(self, words: Sequence[str]) -> list[Named]:
        """The words that name an object; a seat names none among words that have a toilet."""
        seated = "toilet" in words
        return [
            Named(word, self._name[word]) for word in words if word in self._name and not (seated and word == "seat")
        ]

    def find(self, text: str) -> list[Named]:
        """Every mention in a text, in order."""
        return self.named(self.words(text))

    def name(self, word: str) -> str | None:
        """The object that a word of the list stands for."""
        return self._name.get(word)


def lists_2018(synonyms: str) -> list[list[str]]:
    """The words of each line as CHAIR reads its list: between a comma and a space, not stripped."""
    return [line.strip().split(", ") for line in synonyms.splitlines() if line.strip()]


def stripped_lists(synonyms: str) -> list[list[str]]:
    """The words of each line without white space around them."""
    lists = ([word.strip() for word in line.split(",")] for line in synonyms.splitlines())
    return [[word for word in words if word] for words in lists if words[0]]


def pairs_of(lists: Sequence[Sequence[str]]) -> dict[str, str]:
    """``PAIRS`` with every two words that are listed, as RLAIF-V has them."""
    return {**{word: word for words in lists for word in words if " " in word}, **PAIRS}


def lemma_2018(word: str, singular: Mapping[str, str]) -> str:
    """Singular by the rules of 2018, whatever words are known."""
    return singular_2018(word)


def lemma_of_list(word: str, singular: Mapping[str, str]) -> str:
    """The singular of a plural of a known word; any other word as it is."""
    return singular.get(word, word)


class WholeNames:
    """Names found whole, whatever their number of words, with plurals made from the singular (``data/objects.py``)."""

    def __init__(self, synonyms: str) -> None:
        self._vocabulary = Vocabulary.from_lines(synonyms, others={**OTHER_THINGS, **_NO_OBJECTS})

    def find(self, text: str) -> list[Named]:
        """Every mention in a text, in order."""
        return [Named(text[one.start : one.end], one.name) for one in self._vocabulary.find(text)]

    def name(self, word: str) -> str | None:
        """The object that a word or name stands for."""
        found = self.find(word)
        return found[0].name if len(found) == 1 and found[0].word == word else None
