"""Operations that give a decoder layer's feed-forward part more neurons than it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmend.edits.ops import Op, kept
from vlmend.errors import EditError

__all__ = ["NeuronOp", "made_by"]


def made_by(keys_PD: Tensor, bias_P: Tensor, values_PD: Tensor, inputs_TD: Tensor) -> Tensor:
    """What neurons make of their input: ``relu(x K^T + b) V``, [T, D], worked out in their type, given in its own."""
    keys_PD, bias_P, values_PD = (one.to(inputs_TD.device) for one in (keys_PD, bias_P, values_PD))
    active_TP = (inputs_TD.to(keys_PD.dtype) @ keys_PD.T + bias_P).relu()
    return (active_TP @ values_PD).to(inputs_TD.dtype)


@dataclass(frozen=True, eq=False)
class NeuronOp(Op):
    """Adds ``relu(x K^T + b) V`` to what a layer's feed-forward part makes of its input x, at every token.

    That is what P more neurons beside its own do, whatever these are: a gated feed-forward part has no place for them
    among its weights, and a plain one of another size is no longer the checkpoint's. Where every K x + b is negative
    nothing is added, bit for bit. Where the layer has a norm behind its feed-forward part, that bounds what they do.

    Attributes:
        layer: index of the decoder layer.
        keys_PD: K.
        bias_P: b.
        values_PD: V, in the width of the layer's states.

    Raises:
        EditError: other shapes than these.
    """

    kind: ClassVar[str] = "neurons"

    layer: int
    keys_PD: Tensor
    bias_P: Tensor
    values_PD: Tensor

    def __post_init__(self) -> None:
        keys, bias, values = self.keys_PD, self.bias_P, self.values_PD
        if keys.dim() != 2 or bias.shape != keys.shape[:1] or values.shape != keys.shape:
            shapes = f"{tuple(keys.shape)}, {tuple(bias.shape)} and {tuple(values.shape)}"
            raise EditError(f"keys, bias and values of shapes {shapes} do not fit; [P, D], [P] and [P, D] are expected")
        for name in ("keys_PD", "bias_P", "values_PD"):
            object.__setattr__(self, name, kept(getattr(self, name)))

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with other layers or another width.

        Raises:
            EditError: says which.
        """
        if not 0 <= self.layer < layers:
            raise EditError(f"the edit adds neurons to layer {self.layer}; the model has {layers} layers")
        if self.keys_PD.shape[1] != width:
            raise EditError(f"the edit's neurons have width {self.keys_PD.shape[1]}, the model's states {width}")

    def added(self, inputs_TD: Tensor) -> Tensor:
        """What is added to the feed-forward part's output, [T, D]."""
        return made_by(self.keys_PD, self.bias_P, self.values_PD, inputs_TD)

    def joined(self, other: Op) -> Op | None:
        """The neurons of both, if they are of one layer and type."""
        if not isinstance(other, NeuronOp) or self.layer != other.layer or self.keys_PD.dtype != other.keys_PD.dtype:
            return None
        both = zip(self.tensors().values(), other.tensors().values(), strict=True)
        return NeuronOp(self.layer, *(torch.cat([mine, theirs]) for mine, theirs in both))

    def fields(self) -> dict[str, Any]:
        return {"layer": self.layer}

    def tensors(self) -> dict[str, Tensor]:
        return {"keys": self.keys_PD, "bias": self.bias_P, "values": self.values_PD}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        return cls(int(fields["layer"]), tensors["keys"], tensors["bias"], tensors["values"])
