"""What an instrument could not measure: counted apart, never as a zero."""

from __future__ import annotations

from dataclasses import dataclass

from vlmend.data.formats.files import Key

__all__ = ["Failure"]


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that was not measured, the time it was tried (from 0), and why not."""

    id: Key
    run: int
    why: str
