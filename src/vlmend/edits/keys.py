"""What edits leave for those that are made on top of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmend.edits.ops import Op, kept
from vlmend.errors import EditError

__all__ = ["KeysOp"]


@dataclass(frozen=True, eq=False)
class KeysOp(Op):
    """What linear layers are given where an edit changed what they return; it acts on nothing.

    An edit that is made with this one in force can see to it that what was made of these inputs stays. Joined, keys
    take no more room than the layer's width squared: where there are more of them than that, others with the same
    products stand for them.

    Attributes:
        keys: name on disk of a weight [O, I] -> [N, I].

    Raises:
        EditError: keys are no matrix.
    """

    kind: ClassVar[str] = "keys"

    keys: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if wrong := [name for name, keys_NI in self.keys.items() if keys_NI.dim() != 2]:
            raise EditError(f"keys of '{wrong[0]}' have shape {tuple(self.keys[wrong[0]].shape)}: [N, I] is expected")
        object.__setattr__(self, "keys", {name: kept(keys_NI) for name, keys_NI in self.keys.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors it changes: none."""
        return ()

    def fold(self, name: str, base: Tensor) -> Tensor:
        """The tensor as it is."""
        return base

    def joined(self, other: Op) -> Op | None:
        """The keys of both, if they are of the same layers."""
        if not isinstance(other, KeysOp) or self.keys.keys() != other.keys.keys():
            return None
        return KeysOp({name: _narrowed(torch.cat([mine, other.keys[name]])) for name, mine in self.keys.items()})

    def fields(self) -> dict[str, Any]:
        return {"names": list(self.keys)}

    def tensors(self) -> dict[str, Tensor]:
        return {f"keys/{name}": keys_NI for name, keys_NI in self.keys.items()}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        return cls({name: tensors[f"keys/{name}"] for name in fields["names"]})


def _narrowed(keys_NI: Tensor) -> Tensor:
    """At most as many rows as columns, with the same K^T K."""
    return keys_NI if len(keys_NI) <= keys_NI.shape[1] else torch.linalg.qr(keys_NI, mode="r").R
