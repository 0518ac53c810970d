"""In which characters two answers differ, by a comparison of their words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

from vlmend.data.records import Span

__all__ = ["differing"]

_WORD = re.compile(r"\w+|[^\w\s]")


def differing(chosen: str, rejected: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """The characters of each text that stand in words which the other has not, in the longest runs there are.

    What one has more has a span in that one alone. Words are equal whatever their case; punctuation marks are words.
    """
    first, second = list(_WORD.finditer(chosen)), list(_WORD.finditer(rejected))
    words = [[match[0].lower() for match in some] for some in (first, second)]
    changes = [one for one in SequenceMatcher(None, *words, autojunk=False).get_opcodes() if one[0] != "equal"]
    return (
        _spans(first, ((one[1], one[2]) for one in changes)),
        _spans(second, ((one[3], one[4]) for one in changes)),
    )


def _spans(words: list[re.Match[str]], runs: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    return tuple((words[start].start(), words[end - 1].end()) for start, end in runs if end > start)
