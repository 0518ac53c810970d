"""Words of messages."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 case", "3 cases"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
