"""Numbers and answers as text, the same on a page and on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmend.evaluation.stats import Estimate

__all__ = ["bounds", "percent", "printable"]


def percent(estimate: Estimate) -> str:
    """A mean in per cent, or a dash where nothing was measured."""
    return f"{100 * estimate.mean:.0f}" if estimate.n else "–"


def bounds(estimate: Estimate) -> str:
    """Its interval in per cent."""
    return f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}" if estimate.n else ""


def printable(text: str) -> str:
    """Text without control characters, which a model may well say and no page or terminal should obey."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
