"""Numbers and answers as text, the same on a page and on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmend.evaluation.stats import Estimate

__all__ = ["bounds", "gain", "nats", "percent", "printable"]

NO_DIVERGENCE = 1e-6


def percent(estimate: Estimate) -> str:
    """A mean in per cent, or a dash where nothing was measured."""
    return str(round(100 * estimate.mean)) if estimate.n else "–"


def bounds(estimate: Estimate) -> str:
    """Its interval in per cent."""
    if not estimate.n:
        return ""
    low, high = round(100 * estimate.low), round(100 * estimate.high)
    return f"{low}–{high}" if low >= 0 else f"{low} to {high}"


def gain(difference: Estimate) -> str:
    """A difference of means in percentage points, signed, with its interval."""
    if not difference.n:
        return ""
    mean, low, high = (100 * value for value in (difference.mean, difference.low, difference.high))
    return f"{mean:+.0f} [{low:+.0f}, {high:+.0f}]"


def nats(divergence: Estimate | None) -> str:
    """A mean divergence; what is far below any effect is nothing."""
    if divergence is None or not divergence.n:
        return ""
    mean = divergence.mean
    return f"KL {mean:.0f}" if mean >= 10 else f"KL {mean:.2g}" if mean >= NO_DIVERGENCE else "KL 0"


def printable(text: str) -> str:
    """Text without control characters, which a model may well say and no page or terminal should obey."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
