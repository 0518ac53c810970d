"""Corrections as a model knows them: what can be applied, what is in force, and what acts on each row for it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from vlmend.errors import EditError, FingerprintError
from vlmend.models.intervene import Plan, check, joined, plan
from vlmend.models.parts import Parts
from vlmend.models.prepared import Row
from vlmend.models.tensors import fingerprint
from vlmend.models.weights import Folded, Weights, WeightsOperation

__all__ = ["Active", "Applicable", "Edits", "InForce"]


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


class InForce:
    """The edits in force in one model, in their order, and what they do together."""

    def __init__(self, parts: Parts, weights: Weights) -> None:
        self._parts = parts
        self._weights = weights
        self._active: list[Active] = []
        self._hidden: tuple[type, ...] = ()
        self._known: dict[tuple[type, ...], _Joined] = {}

    @cached_property
    def base(self) -> str:
        """Hash of the weights without edits, over tensors named as on disk."""
        return fingerprint(self._weights.base())

    @property
    def edits(self) -> tuple[Applicable, ...]:
        """Which they are."""
        return tuple(one.edit for one in self._active)

    def check(self, edit: Applicable) -> None:
        """Refuse an edit that cannot be applied to this model.

        Raises:
            FingerprintError: it was made for other weights.
            EditError: it names what this model does not have.
        """
        if edit.base != self.base:
            raise FingerprintError(made_for=edit.base, applied_to=self.base)
        check(edit.ops, self._parts, self._weights)

    def add(self, edit: Applicable) -> Active:
        """Put an edit in force; see `check` for what is refused, with nothing changed."""
        self.check(edit)
        changes = [op for op in edit.ops if isinstance(op, WeightsOperation)]
        handle = Active(self._active, edit, self._weights.add(changes))
        self._active.append(handle)
        return handle

    @contextmanager
    def lifted(self) -> Generator[None, None, None]:
        """None of them in the block; behind it all that were are again, in their order, bit for bit."""
        with ExitStack() as stack:
            for handle in reversed(list(self._active)):
                stack.enter_context(handle.lifted())
            yield

    @contextmanager
    def without(self, kind: type) -> Generator[None, None, None]:
        """Within the block operations of one kind, which changes no weights, do nothing."""
        before = self._hidden
        self._hidden = (*before, kind)
        try:
            yield
        finally:
            self._hidden = before

    def plans(self, rows: Sequence[Row], edits: Edits, ops: Sequence[Any]) -> list[Plan]:
        """What acts on each row: edits in force (whose weights are folded already), the row's own, then ``ops``. Pools
        and memories of several edits are one.

        Raises:
            EditError, FingerprintError: as `check`, or there is not one edit for each row.
        """
        standing = self._joined()
        each = list(edits) if isinstance(edits, Sequence) else [edits] * len(rows)
        if len(each) != len(rows):
            raise EditError(f"{len(each)} edits were given for {len(rows)} rows")
        acting = {id(None): standing}
        for edit in each:
            if edit is not None and id(edit) not in acting:
                self.check(edit)
                folded = [op for op in edit.ops if isinstance(op, WeightsOperation)]
                others = [op for op in edit.ops if not isinstance(op, WeightsOperation)]
                acting[id(edit)] = (*folded, *joined((*standing, *others)))
        return [plan((*acting[id(edit)], *ops), row) for edit, row in zip(each, rows, strict=True)]

    def _joined(self) -> tuple[Any, ...]:
        """What they do beside changing weights, as one operation of a kind where that can be. What is known of the same
        ones is gone on from: in a sequence of edits there is one more each time."""
        known, edits = self._known.get(self._hidden, _Joined()), self.edits
        if _begins(edits, known.edits) and len(edits) == len(known.edits):
            return known.made
        idle = (WeightsOperation, *self._hidden)
        ops = tuple(op for edit in edits for op in edit.ops if not isinstance(op, idle))
        before = known if _begins(ops, known.ops) else _Joined()
        made = joined((*before.made, *ops[len(before.ops) :])) if len(ops) > len(before.ops) else before.made
        self._known[self._hidden] = _Joined(edits, ops, made)
        return made


@dataclass(frozen=True, eq=False)
class _Joined:
    """Some edits, their operations, and what these are together."""

    edits: tuple[Applicable, ...] = ()
    ops: tuple[Any, ...] = ()
    made: tuple[Any, ...] = ()


def _begins(some: Sequence[Any], first: Sequence[Any]) -> bool:
    """Whether a sequence begins with the very objects of another."""
    return len(first) <= len(some) and all(one is other for one, other in zip(first, some, strict=False))
