"""Corrections as a model knows them: what can be applied, and a handle on what is in force."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from vlmend.models.intervene import joined
from vlmend.models.weights import Folded, WeightsOperation

__all__ = ["Active", "Applicable", "Edits", "Standing"]


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


class Standing:
    """What edits in force do beside changing weights, as one operation of a kind where that can be."""

    def __init__(self, active: Sequence[Active]) -> None:
        self._active = active
        self._known: dict[tuple[type, ...], tuple[tuple[Any, ...], tuple[Any, ...]]] = {}

    def without(self, hidden: tuple[type, ...]) -> tuple[Any, ...]:
        """All but operations of some kinds. What is known of the same ones is gone on from: in a sequence of edits
        there is one more each time."""
        idle = (WeightsOperation, *hidden)
        ops = tuple(op for one in self._active for op in one.edit.ops if not isinstance(op, idle))
        known, made = self._known.get(hidden, ((), ()))
        if len(known) > len(ops) or any(one is not other for one, other in zip(known, ops, strict=False)):
            known, made = (), ()
        if len(ops) > len(known):
            made = joined((*made, *ops[len(known) :]))
        self._known[hidden] = (ops, made)
        return made
