"""Corrections as a model knows them: what can be applied, and a handle on what is in force."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from vlmend.models.weights import Folded

__all__ = ["Active", "Applicable", "Edits"]


class Applicable(Protocol):
    """A correction: its id, the fingerprint of the model it is for, and its operations."""

    @property
    def id(self) -> str: ...
    @property
    def base(self) -> str: ...
    @property
    def ops(self) -> Sequence[Any]: ...


Edits = Applicable | Sequence[Applicable | None] | None
"""No edit, one for all rows, or one (or none) for each row."""


class Active:
    """A handle on an edit in force; ``undo`` takes it back, in any order with others, once."""

    def __init__(self, among: list[Active], edit: Applicable, folded: Folded) -> None:
        self._among = among
        self._folded = folded
        self.edit = edit

    def undo(self) -> None:
        """Take the edit back; a second call does nothing."""
        if self in self._among:
            self._among.remove(self)
            self._folded.undo()

    @contextmanager
    def lifted(self) -> Generator[None, None, None]:
        """Out of force in the block, and the last of all behind it."""
        self._among.remove(self)
        self._folded.undo()
        try:
            yield
        finally:
            self._folded.redo()
            self._among.append(self)
