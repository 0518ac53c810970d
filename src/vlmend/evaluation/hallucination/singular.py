"""Words as the published CHAIR reads them: cut from a caption, and made singular.

The 2018 evaluator makes every word singular with the rules of the ``pattern`` library, whatever its part of speech, and
its numbers depend on that: whatever ends in "s" loses it, so that "bus" is "bu" and no bus, and "glass" is "glas". The
rules here are written anew, to the same effect on the words of CHAIR's list and on their plurals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

__all__ = ["singular_2018", "tokens"]

_TOKEN = re.compile(r"'?[^\W_]+(?:[-/.][^\W_]+)*|[^\w\s]|_")

_UNCHANGED = ("scissors", "shears", "luggage", "christmas", "news", "series", "chassis")
_KEPT_IE = ("cookie", "collie", "doggie", "birdie", "hoagie", "veggie")
_IRREGULAR: Mapping[str, str] = {
    "children": "child",
    "people": "person",
    "men": "man",
    "teeth": "tooth",
    "feet": "foot",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "loaves": "loaf",
    "leaves": "leaf",
}
"""Endings that stand for the whole: "policemen" has one of them too."""

_ENDINGS: tuple[tuple[str, str], ...] = (
    ("oes", "o"),
    ("buses", "bus"),
    ("xes", "x"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("sses", "ss"),
    ("ies", "y"),
    ("lves", "lf"),
    ("nives", "nife"),
    ("aves", "ave"),
    ("oves", "ove"),
    ("eves", "eve"),
    ("tives", "tive"),
    ("ves", "fe"),
    ("s", ""),
)


def tokens(caption: str) -> list[str]:
    """Words and punctuation in lower case; what hyphens, slashes or full stops join stays one word."""
    return _TOKEN.findall(caption.lower())


@lru_cache(maxsize=65536)
def singular_2018(word: str) -> str:
    """A word without its plural ending, or what looks like one."""
    # The library compares the other way round: "ears" stays, for it ends "shears".
    if any(kept.endswith(word) for kept in _UNCHANGED):
        return word
    if any(word.endswith(f"{kept}s") for kept in _KEPT_IE):
        return word
    for ending, single in (*_IRREGULAR.items(), *_ENDINGS):
        if word.endswith(ending):
            return word.removesuffix(ending) + single
    return word
