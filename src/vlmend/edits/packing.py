"""Operations taken apart into plain values and named tensors, and put together again; one table knows all kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from vlmend.edits.counterfactual import CounterfactualOp
from vlmend.edits.experts import ExpertsOp
from vlmend.edits.functions import FunctionOp
from vlmend.edits.left import KeysOp, MomentsOp
from vlmend.edits.memory import MemoryOp
from vlmend.edits.neurons import NeuronOp
from vlmend.edits.ops import Op, WeightOp
from vlmend.edits.prompts import PromptOp, RecallOp
from vlmend.edits.routes import AnswerOp, RouteOp
from vlmend.edits.states import StateOp

__all__ = ["KINDS", "packed", "unpacked", "within"]

_ALL: tuple[type[Op], ...] = (
    *(WeightOp, StateOp, FunctionOp, NeuronOp, MemoryOp),
    *(PromptOp, RecallOp, RouteOp, AnswerOp, CounterfactualOp, ExpertsOp, KeysOp, MomentsOp),
)
KINDS: dict[str, type[Op]] = {op.kind: op for op in _ALL}


def packed(ops: Sequence[Op], prefix: str = "") -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Plain JSON values, and tensors named ``<place>/<name>``: place 1.0 is the first operation inside the second."""
    listed: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for index, op in enumerate(ops):
        place = f"{prefix}{index}"
        inner, more = packed(op.inner, f"{place}.")
        listed.append({"kind": op.kind, **op.fields(), "inner": inner})
        tensors |= {f"{place}/{name}": tensor for name, tensor in op.tensors().items()} | more
    return listed, tensors


def unpacked(listed: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], prefix: str = "") -> tuple[Op, ...]:
    """The operations that ``packed`` took apart.

    Raises:
        ValueError: a kind that is not known here.
        KeyError: a value or tensor is missing.
        EditError: they do not fit together.
    """
    ops: list[Op] = []
    for index, about in enumerate(listed):
        if about["kind"] not in KINDS:
            raise ValueError(f"unknown kind of operation '{about['kind']}'")
        place = f"{prefix}{index}"
        own = {key.removeprefix(f"{place}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{place}/")}
        ops.append(KINDS[about["kind"]].rebuilt(about, own, unpacked(about["inner"], tensors, f"{place}.")))
    return tuple(ops)


def within(ops: Iterable[Op]) -> Iterable[Op]:
    """The operations and all those inside them."""
    for op in ops:
        yield op
        yield from within(op.inner)
