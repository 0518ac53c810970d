"""What two edits have in common, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmend.edits.edit import Edit, EditRequest
from vlmend.edits.ops import WeightOp
from vlmend.edits.packing import within

__all__ = ["Difference", "TensorDifference", "diff"]


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor that at least one of two edits changes.

    Attributes:
        name: its name on disk.
        norms: Frobenius norm of each edit's change; 0 where it makes none.
        cosine: between the two changes; ``None`` where one makes none.
    """

    name: str
    norms: tuple[float, float]
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two edits side by side.

    Attributes:
        same_base: whether they are for the same weights.
        tensors: those that either changes by adding to it, by name.
        replaced: names of the tensors that either replaces, whose change depends on the base.
        others: kinds of the operations of each that change no weights, in their order.
        only: requests that only the first, and only the second, was made for.
    """

    same_base: bool
    tensors: tuple[TensorDifference, ...]
    replaced: tuple[str, ...]
    others: tuple[tuple[str, ...], tuple[str, ...]]
    only: tuple[tuple[EditRequest, ...], tuple[EditRequest, ...]]


def diff(one: Edit, other: Edit) -> Difference:
    """Compare two edits; their models are not needed."""
    pair = (one, other)
    added = [_added(edit) for edit in pair]
    tensors: list[TensorDifference] = []
    for name in sorted({*added[0], *added[1]}):
        mine, theirs = (changes.get(name) for changes in added)
        norms = tuple(0.0 if change is None else float(change.norm()) for change in (mine, theirs))
        both = mine is not None and theirs is not None and mine.shape == theirs.shape
        cosine = float(torch.cosine_similarity(mine.flatten(), theirs.flatten(), 0)) if both else None  # type: ignore[union-attr]
        tensors.append(TensorDifference(name, (norms[0], norms[1]), cosine))
    return Difference(
        same_base=one.base == other.base,
        tensors=tuple(tensors),
        replaced=tuple(sorted({name for edit in pair for name in _replaced(edit)})),
        others=(_others(one), _others(other)),
        only=(_only(one, other), _only(other, one)),
    )


def _weights(edit: Edit) -> list[WeightOp]:
    return [op for op in within(edit.ops) if isinstance(op, WeightOp)]


def _added(edit: Edit) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for op in _weights(edit):
        for name, change in op.changes.items():
            if change.form != "value":
                total[name] = change.fold(total.get(name, torch.zeros(change.shape)))
    return total


def _replaced(edit: Edit) -> list[str]:
    return [name for op in _weights(edit) for name, change in op.changes.items() if change.form == "value"]


def _others(edit: Edit) -> tuple[str, ...]:
    return tuple(op.kind for op in within(edit.ops) if not isinstance(op, WeightOp))


def _only(one: Edit, other: Edit) -> tuple[EditRequest, ...]:
    return tuple(request for request in one.requests if request not in other.requests)
