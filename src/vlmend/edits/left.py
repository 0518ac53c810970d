"""What edits leave for those that are made on top of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmend.edits.ops import Op, kept
from vlmend.errors import EditError

__all__ = ["KeysOp", "LeftOp", "Moments", "MomentsOp"]


class LeftOp(Op):
    """Something to be known by edits that are made with this one in force; it acts on nothing."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors it changes: none."""
        return ()

    def fold(self, name: str, base: Tensor) -> Tensor:
        """The tensor as it is."""
        return base


@dataclass(frozen=True, eq=False)
class KeysOp(LeftOp):
    """What linear layers are given where an edit changed what they return.

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


@dataclass(frozen=True, eq=False)
class Moments:
    """Of vectors [N, W] that need not be kept: how many there were, their mean, and their squares about it.

    Attributes:
        count: N.
        mean_W: their mean, in float32.
        squares_W: the sum of (x - mean)^2, in float32.
    """

    count: int
    mean_W: Tensor
    squares_W: Tensor

    @classmethod
    def of(cls, x_NW: Tensor) -> Moments:
        """Of these vectors."""
        x_NW = x_NW.float()
        mean_W = x_NW.mean(0) if len(x_NW) else x_NW.new_zeros(x_NW.shape[1])
        return cls(len(x_NW), mean_W, (x_NW - mean_W).square().sum(0))

    def joined(self, other: Moments) -> Moments:
        """Of the vectors of both (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        if not count:
            return self
        apart_W = other.mean_W - self.mean_W
        mean_W = self.mean_W + apart_W * (other.count / count)
        squares_W = self.squares_W + other.squares_W + apart_W.square() * (self.count * other.count / count)
        return Moments(count, mean_W, squares_W)

    def normalised(self, x_NW: Tensor, epsilon: float) -> Tensor:
        """Vectors less the mean, over the deviation: [N, W]."""
        return (x_NW - self.mean_W) / ((self.squares_W / max(self.count, 1)).sqrt() + epsilon)

    def to(self, device: torch.device) -> Moments:
        """The same elsewhere."""
        return Moments(self.count, self.mean_W.to(device), self.squares_W.to(device))


@dataclass(frozen=True, eq=False)
class MomentsOp(LeftOp):
    """What linear layers were given by requests, and the gradients of the loss at what they returned, as moments.

    An edit that is made with this one in force can measure its own by those of all before it. Joined, they take the
    room of one.

    Attributes:
        moments: name on disk of a weight [O, I] -> of its inputs [., I] and of the gradients [., O].
    """

    kind: ClassVar[str] = "moments"

    moments: Mapping[str, tuple[Moments, Moments]]

    def __post_init__(self) -> None:
        found = {
            name: tuple(Moments(one.count, kept(one.mean_W), kept(one.squares_W)) for one in pair)
            for name, pair in self.moments.items()
        }
        object.__setattr__(self, "moments", found)

    def joined(self, other: Op) -> MomentsOp | None:
        """Of both, if they are of the same layers."""
        if not isinstance(other, MomentsOp) or self.moments.keys() != other.moments.keys():
            return None
        both = {name: (mine, other.moments[name]) for name, mine in self.moments.items()}
        return MomentsOp({name: (a.joined(c), b.joined(d)) for name, ((a, b), (c, d)) in both.items()})

    def fields(self) -> dict[str, Any]:
        return {"counts": {name: [one.count for one in pair] for name, pair in self.moments.items()}}

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{what}/{side}/{name}": tensor
            for name, pair in self.moments.items()
            for side, one in enumerate(pair)
            for what, tensor in (("mean", one.mean_W), ("squares", one.squares_W))
        }

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        return cls(
            {
                name: (
                    Moments(counts[0], tensors[f"mean/0/{name}"], tensors[f"squares/0/{name}"]),
                    Moments(counts[1], tensors[f"mean/1/{name}"], tensors[f"squares/1/{name}"]),
                )
                for name, counts in fields["counts"].items()
            }
        )
