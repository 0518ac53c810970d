"""Rates over answers, with intervals.

What is drawn anew by the bootstrap is a picture with all that was said of it: its questions and mentions are not
independent. The order of the answers never matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from vlmend.data.formats.files import Key
from vlmend.evaluation.proof import without_nan
from vlmend.evaluation.stats import Estimate, bootstrap, estimate

__all__ = ["Rated", "estimates_of", "length", "rate", "words_in"]


class Rated:
    """A frozen result some of whose fields are estimates."""

    @property
    def rates(self) -> dict[str, Estimate]:
        """Name -> rate, with coverage and length among them."""
        return estimates_of(self)

    @property
    def units(self) -> Mapping[str, str]:
        """Name -> unit of what is no share."""
        return {"words": "words"}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a mean of nothing is null."""
        return without_nan(asdict(self))  # type: ignore[call-overload]


def rate(hits: Iterable[tuple[Key, bool]]) -> Estimate:
    """Share of hits among (picture, hit): Wilson's interval where each picture has one, else the bootstrap over them.

    A ratio of sums over answers, as CHAIR_i is, is the share among all their mentions; ``nan`` of nothing.
    """
    ordered = sorted(hits, key=_place)
    return estimate([float(hit) for _, hit in ordered], [picture for picture, _ in ordered])


def length(words: Iterable[tuple[Key, int]]) -> Estimate:
    """Mean number of words of (picture, words in an answer), by the bootstrap over pictures."""
    ordered = sorted(words, key=_place)
    return bootstrap([float(count) for _, count in ordered], [picture for picture, _ in ordered])


def estimates_of(result: Any) -> dict[str, Estimate]:
    """The fields of a frozen result that are estimates, in their order."""
    values = ((one.name, getattr(result, one.name)) for one in fields(result))
    return {name: value for name, value in values if isinstance(value, Estimate)}


def words_in(text: str) -> int:
    """Length of an answer: what white space separates."""
    return len(text.split())


def _place(pair: tuple[Key, int]) -> tuple[str, str]:
    picture = pair[0]
    return type(picture).__name__, str(picture)
