"""Comparing answers given as text."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["matches", "normalised"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]")


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces; text of nothing else stays as it is."""
    plain = _ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.lower()))
    return " ".join(plain.split()) or text.strip().lower()


def matches(said: str, accepted: Iterable[str]) -> bool:
    """Whether an answer is, normalised, one of those that are accepted."""
    wanted = {normalised(answer) for answer in accepted}
    return normalised(said) in wanted
