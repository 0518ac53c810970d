"""The operations an edit is made of: what they have in common, and changes of weights, named as on disk.

Each is a frozen, declarative value; `vlmend.models.intervene` executes them. The others: `states.py`, `functions.py`,
`neurons.py`, `memory.py`, `prompts.py`, `routes.py`, `counterfactual.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor

from vlmend.errors import EditError

__all__ = ["Change", "Op", "WeightOp", "alike", "kept"]


class Op(ABC):
    """An operation: plain JSON values, tensors by name, and other operations inside it.

    ``rebuilt`` makes an equal one out of these three.
    """

    kind: ClassVar[str]

    @property
    def inner(self) -> tuple[Op, ...]:
        """The operations inside this one."""
        return ()

    @property
    def words(self) -> tuple[str, ...]:
        """What it tells the model in words."""
        return ()

    def joined(self, other: Op) -> Op | None:
        """This and another as one, which does what they do where not both act; ``None`` if there is no such."""
        return None

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """All that it is beside tensors and operations, as JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Its own tensors: on the CPU, contiguous."""

    @classmethod
    @abstractmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        """The operation that has these.

        Raises:
            EditError: they do not fit together.
        """


def alike(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether two operations have the same tensors, which may be shared."""
    return some.keys() == others.keys() and all(
        one.data_ptr() == others[name].data_ptr() or torch.equal(one, others[name]) for name, one in some.items()
    )


def outlived(earlier: Sequence[Tensor], later: Sequence[Tensor]) -> list[int]:
    """Places of earlier entries whose keys, [N, ...] each, are not those of a later one but for rounding: an edit of
    what has been edited before takes the place of that."""
    mine_NF, other_MF = (torch.cat([key.flatten(1) for key in keys], 1).float() for keys in (earlier, later))
    if not len(other_MF):
        return [*range(len(mine_NF))]
    apart_N = torch.cdist(mine_NF, other_MF, p=float("inf")).amin(1)
    return (apart_N > 1e-4 * float(other_MF.abs().max())).nonzero().flatten().tolist()


def kept(tensor: Tensor) -> Tensor:
    """A copy as operations hold it, that later changes of the original do not reach."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


Form = Literal["delta", "low_rank", "value"]

_TENSORS: dict[str, int] = {"delta": 1, "low_rank": 2, "value": 1}


@dataclass(frozen=True, eq=False)
class Change:
    """The change of one tensor.

    Attributes:
        form: "delta" adds ``tensors[0]``; "low_rank" adds ``tensors[0] @ tensors[1]`` ([out, rank] and [rank, in]);
            "value" puts ``tensors[0]`` in its place.
        tensors: on the CPU, contiguous.

    Raises:
        EditError: an unknown form, another number of tensors than it has, or factors that do not fit.
    """

    form: Form
    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if len(self.tensors) != _TENSORS.get(self.form):
            raise EditError(f"a change of form '{self.form}' does not have {len(self.tensors)} tensors")
        if self.form == "low_rank":
            left, right = self.tensors
            if left.dim() != 2 or right.dim() != 2 or left.shape[1] != right.shape[0]:
                raise EditError(f"low-rank factors of shapes {tuple(left.shape)}, {tuple(right.shape)} do not fit")
        object.__setattr__(self, "tensors", tuple(kept(tensor) for tensor in self.tensors))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor it changes."""
        if self.form == "low_rank":
            return (self.tensors[0].shape[0], self.tensors[1].shape[1])
        return tuple(self.tensors[0].shape)

    def fold(self, base: Tensor) -> Tensor:
        """The changed tensor."""
        tensors = [tensor.to(device=base.device, dtype=base.dtype) for tensor in self.tensors]
        if self.form == "value":
            return tensors[0]
        return base + (tensors[0] if self.form == "delta" else tensors[0] @ tensors[1])

    def norm(self, base: Tensor | None = None) -> float:
        """Frobenius norm of the change; for a replaced value the base is needed."""
        if self.form == "value":
            if base is None:
                raise EditError("the norm of a replaced value needs the base tensor")
            return float(torch.linalg.vector_norm(self.tensors[0].float() - base.detach().float().cpu()))
        return float(torch.linalg.vector_norm(self.fold(torch.zeros(self.shape))))


@dataclass(frozen=True, eq=False)
class WeightOp(Op):
    """Changes weights, by the tensors' names on disk.

    Attributes:
        changes: name on disk -> its change.
        shared: the change's own name, for one that many edits hold and that must be made once: of all operations of
            one name in force, one acts.
    """

    kind: ClassVar[str] = "weight"

    changes: Mapping[str, Change] = field(default_factory=dict[str, Change])
    shared: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", dict(self.changes))

    @classmethod
    def deltas(cls, tensors: Mapping[str, Tensor]) -> WeightOp:
        """Add dense tensors."""
        return cls({name: Change("delta", (tensor,)) for name, tensor in tensors.items()})

    @classmethod
    def low_rank(cls, factors: Mapping[str, tuple[Tensor, Tensor]], *, shared: str | None = None) -> WeightOp:
        """Add products [out, rank] @ [rank, in]."""
        return cls({name: Change("low_rank", pair) for name, pair in factors.items()}, shared)

    @classmethod
    def values(cls, tensors: Mapping[str, Tensor]) -> WeightOp:
        """Replace tensors."""
        return cls({name: Change("value", (tensor,)) for name, tensor in tensors.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors it changes."""
        return tuple(self.changes)

    def joined(self, other: Op) -> Op | None:
        """Itself, where the other is the same shared change."""
        same = isinstance(other, WeightOp) and self.shared is not None and self.shared == other.shared
        return self if same else None

    def fold(self, name: str, base: Tensor) -> Tensor:
        """The changed value of one tensor.

        Raises:
            EditError: the change has another shape.
        """
        change = self.changes[name]
        if change.shape != tuple(base.shape):
            raise EditError(f"the edit's change of '{name}' has shape {change.shape}, the tensor {tuple(base.shape)}")
        return change.fold(base)

    def fields(self) -> dict[str, Any]:
        return {"names": list(self.changes)} | ({} if self.shared is None else {"shared": self.shared})

    def tensors(self) -> dict[str, Tensor]:
        """Named ``<form>/<part>/<name on disk>``."""
        return {
            f"{change.form}/{part}/{name}": tensor
            for name, change in self.changes.items()
            for part, tensor in enumerate(change.tensors)
        }

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        parts: dict[str, list[tuple[str, str, Tensor]]] = {name: [] for name in fields["names"]}
        for key, tensor in sorted(tensors.items()):
            form, part, name = key.split("/", 2)
            parts[name].append((form, part, tensor))
        if missing := [name for name, found in parts.items() if not found]:
            raise EditError(f"the tensor of '{missing[0]}' is missing")
        return cls(
            {
                name: Change(cast(Form, found[0][0]), tuple(tensor for _, _, tensor in found))
                for name, found in parts.items()
            },
            fields.get("shared"),
        )
