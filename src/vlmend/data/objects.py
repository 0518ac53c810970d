"""Which objects a text mentions, and where.

A vocabulary maps the name of each object to its synonyms. All its words and their plurals make one pattern, and the
longest match wins: "hot dog" is a hot dog and no dog, also where the vocabulary knows dogs only. Plurals are made from
the singular, never the other way round: turning words into singulars makes "bu" of "bus".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vlmend.errors import VlmendError

__all__ = ["OTHER_THINGS", "QUALIFIERS", "Mention", "Vocabulary", "plurals"]

OTHER_THINGS: Mapping[str, str | None] = {
    "hot dog": None,
    "corn dog": None,
    "prairie dog": None,
    "guinea pig": None,
    "teddy bear": None,
    "toilet seat": "toilet",
    "mouse pad": None,
    "sea horse": None,
    "clothes horse": None,
    "cup cake": "cupcake",
    "pan cake": "pancake",
}
"""Names that end or begin like another object's and mean something else, or the object that the value names.

Each counts only if a vocabulary does not list it itself."""

QUALIFIERS: tuple[str, ...] = ("baby", "adult", "passenger")
"""Words for a person that are none right before another object: a baby elephant, a passenger train."""

_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
}
_VES = ("kni", "wi", "li", "shel", "lea", "loa", "cal", "hal", "wol", "thie", "el", "scar", "hoo")
_BREAK = r"[\s\-‐‑]+"  # between the words of a name: spaces, line ends, hyphens
_BREAKS = re.compile(_BREAK)


@dataclass(frozen=True, slots=True)
class Mention:
    """An object named in a text: its name in the vocabulary, and the place: ``text[start:end]``."""

    name: str
    start: int
    end: int


class Vocabulary:
    """Names of objects and their synonyms, found in text with one compiled pattern.

    Words are matched whole, whatever their case; a name of several words also over a line's end or with hyphens. A
    word before a hyphen ("dog-friendly") is no mention.

    Args:
        synonyms: name -> other words for it; the name itself is one, and plurals are added.
        others: names of several words that are not to be taken for the objects they contain -> the word they stand
            for instead, if any.

    Raises:
        VlmendError: a word stands for two objects, or is empty.
    """

    def __init__(
        self, synonyms: Mapping[str, Iterable[str]], *, others: Mapping[str, str | None] = OTHER_THINGS
    ) -> None:
        given: dict[str, str] = {}
        for name, words in synonyms.items():
            for word in (name, *words):
                form = _form(word)
                if not form:
                    raise VlmendError(f"the vocabulary has an empty word for '{name}'")
                if given.setdefault(form, name) != name:
                    raise VlmendError(f"the vocabulary has '{word}' for both '{given[form]}' and '{name}'")
        self.names: tuple[str, ...] = tuple(synonyms)
        # A word that is listed is never taken for the plural of another.
        named: dict[str, str | None] = {**given}
        for form, name in given.items():
            for plural in plurals(form):
                named.setdefault(plural, name)
        for other, instead in others.items():
            for form in (_form(other), *plurals(_form(other))):
                named.setdefault(form, given.get(_form(instead)) if instead else None)
        self._named = named
        self._pattern = re.compile(rf"(?<!\w)(?:{_trie(named)})(?!\w|[-‐‑]\w)") if named else None

    @classmethod
    def from_lines(cls, text: str, *, others: Mapping[str, str | None] = OTHER_THINGS) -> Vocabulary:
        """A vocabulary from lines of words between commas, the first of which is the name, as CHAIR lists them.

        Raises:
            VlmendError: a word stands for two objects.
        """
        lines = ([word.strip() for word in line.split(",")] for line in text.splitlines())
        listed = ([word for word in words if word] for words in lines)
        return cls({words[0]: words[1:] for words in listed if words}, others=others)

    def find(self, text: str) -> list[Mention]:
        """Every mention in a text, in order; none overlap."""
        if self._pattern is None:
            return []
        lower = _lower(text)
        found: list[Mention] = []
        for match in self._pattern.finditer(lower):
            name = self._named[_form(match[0])]
            if found and name and self._qualifies(found[-1], lower, match.start()):
                found.pop()
            if name:
                found.append(Mention(name, match.start(), match.end()))
        return found

    @staticmethod
    def _qualifies(mention: Mention, lower: str, start: int) -> bool:
        """Whether a mention only says of what sort the next one is, which starts at ``start``."""
        between = lower[mention.end : start]
        return lower[mention.start : mention.end] in QUALIFIERS and _BREAKS.fullmatch(between) is not None

    def mentioned(self, text: str) -> tuple[str, ...]:
        """The names of the objects in a text, each once, in order of their first mention."""
        return tuple(dict.fromkeys(mention.name for mention in self.find(text)))


def plurals(word: str) -> Iterator[str]:
    """Plural forms of a name in lower case; of several words the last one changes."""
    *before, last = word.split(" ")
    for plural in _plurals_of(last):
        yield " ".join((*before, plural))


def _plurals_of(word: str) -> Iterator[str]:
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou") and len(word) > 1:
        yield f"{word[:-1]}ies"
    elif word.endswith(("s", "x", "z", "ch", "sh")):
        yield f"{word}es"
    elif word.endswith("o"):
        yield f"{word}s"
        yield f"{word}es"
    else:
        yield f"{word}s"
    stem = word.removesuffix("e").removesuffix("f")
    if word.endswith(("f", "fe")) and stem.endswith(_VES):
        yield f"{stem}ves"
    yield from (
        f"{word.removesuffix(single)}{many}"
        for single, many in _IRREGULAR.items()
        if word == single or (single in ("man", "woman", "child") and word.endswith(single) and len(word) > 3)
    )


def _lower(text: str) -> str:
    """In lower case, letter by letter, so that places in it are places in the text."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _form(word: str) -> str:
    """How a name is kept: lower case, one space wherever spaces or hyphens are."""
    return _BREAKS.sub(" ", _lower(word)).strip()


class _Node(dict[str, "_Node"]):
    """Letters that may come next; the empty one ends a form."""


def _trie(forms: Iterable[str]) -> str:
    """A pattern of all forms, longest first, that looks at each letter once: their number hardly matters."""
    root = _Node()
    for form in forms:
        node = root
        for letter in form:
            node = node.setdefault(letter, _Node())
        node[""] = _Node()
    return _branches(root)


def _branches(node: _Node) -> str:
    parts = [
        (_BREAK if letter == " " else re.escape(letter)) + _branches(below) for letter, below in node.items() if letter
    ]
    if not parts:
        return ""
    whole = parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
    return f"(?:{whole})?" if "" in node else whole
