"""What an answer says that can be checked against a picture: objects, colours, counts, places, yes and no."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vlmend.data.objects import Vocabulary

__all__ = ["COLOURS", "NUMBERS", "PLACES", "YES_NO", "Checkable", "Claim"]

COLOURS: Mapping[str, Iterable[str]] = {
    **dict.fromkeys(("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"), ()),
    "grey": ("gray",),
    "golden": ("gold",),
    "silver": (),
    "beige": ("tan",),
    "turquoise": ("teal", "cyan"),
}
"""Colour -> other words for it."""

NUMBERS: Mapping[str, Iterable[str]] = {
    word: (str(number),)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
    )
}
"""Number -> how else it is written."""

PLACES: Mapping[str, Iterable[str]] = {
    **dict.fromkeys(("left", "right", "top", "bottom", "middle", "above", "below", "behind", "inside"), ()),
    "in front": (),
    "under": ("underneath", "beneath"),
    "outside": (),
}
"""Where something is -> other words for it."""

YES_NO: Mapping[str, Iterable[str]] = {"yes": (), "no": ()}


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a text says: of what kind, its name in the vocabulary, and the place: ``text[start:end]``."""

    kind: str
    name: str
    start: int
    end: int


class Checkable:
    """Finds what can be checked in a text, each kind by a vocabulary of its own.

    Args:
        words: kind -> (name -> other words for it), in the order in which kinds are tried on one place.

    Raises:
        VlmendError: a word stands for two names of one kind, or is empty.
    """

    def __init__(self, words: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
        self._vocabularies = {kind: Vocabulary(names) for kind, names in words.items()}

    @classmethod
    def of_objects(cls, lines: str) -> Checkable:
        """Objects as CHAIR lists them (`Vocabulary.from_lines`), and colours, numbers, places, yes and no.

        Raises:
            VlmendError: a word stands for two objects.
        """
        made = cls({"colour": COLOURS, "count": NUMBERS, "place": PLACES, "yes or no": YES_NO})
        made._vocabularies = {"object": Vocabulary.from_lines(lines), **made._vocabularies}
        return made

    def claims(self, text: str) -> list[Claim]:
        """What a text says, in its order; of what overlaps the longest, then the first kind."""
        found = [
            Claim(kind, one.name, one.start, one.end)
            for kind, vocabulary in self._vocabularies.items()
            for one in vocabulary.find(text)
        ]
        kept: list[Claim] = []
        for one in sorted(found, key=lambda claim: claim.start - claim.end):
            if all(one.end <= other.start or other.end <= one.start for other in kept):
                kept.append(one)
        return sorted(kept, key=lambda claim: claim.start)

    def objects(self, text: str) -> list[str]:
        """The names of the objects in a text, in order of mention."""
        return [one.name for one in self.claims(text) if one.kind == "object"]

    def facts(self, text: str) -> Counter[tuple[str, str]]:
        """How often a text says what: (kind, name)."""
        return Counter((one.kind, one.name) for one in self.claims(text))

    def changed(self, chosen: str, rejected: str) -> tuple[str, ...]:
        """The kinds of what one text says and the other does not, or not as often."""
        before, after = self.facts(chosen), self.facts(rejected)
        return tuple(dict.fromkeys(kind for kind, _ in ((before - after) + (after - before))))
