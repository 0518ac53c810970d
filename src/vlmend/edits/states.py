"""Operations on visual states: what a decoder layer hands on at the places of a picture's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmend.edits.ops import Op, kept
from vlmend.errors import EditError

__all__ = ["StateOp"]


@dataclass(frozen=True, eq=False)
class StateOp(Op):
    """Adds vectors to the output of one decoder layer at visual tokens of the prompt.

    Nothing happens in a row without a picture, nor at the tokens that are generated later: these see the change
    through the layers above and their cache.

    Attributes:
        layer: index of the decoder layer after which it acts.
        places: int64 [S], which of the row's visual tokens, counted from 0 in their order.
        delta_SD: what is added at each.

    Raises:
        EditError: other shapes than these.
    """

    kind: ClassVar[str] = "state"
    reads_question: ClassVar[bool] = False

    layer: int
    places: Tensor
    delta_SD: Tensor

    def __post_init__(self) -> None:
        if self.places.dim() != 1 or self.delta_SD.dim() != 2 or len(self.places) != len(self.delta_SD):
            shapes = f"{tuple(self.places.shape)} and {tuple(self.delta_SD.shape)}"
            raise EditError(f"places and deltas of shapes {shapes} do not fit; [S] and [S, D] are expected")
        object.__setattr__(self, "places", kept(self.places))
        object.__setattr__(self, "delta_SD", kept(self.delta_SD))

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with other layers or another width.

        Raises:
            EditError: says which.
        """
        if not 0 <= self.layer < layers:
            raise EditError(f"the edit acts after layer {self.layer}; the model has {layers} layers")
        if self.delta_SD.shape[1] != width:
            raise EditError(f"the edit's vectors have width {self.delta_SD.shape[1]}, the model's states {width}")

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        """The states of one prompt with the vectors added.

        Raises:
            EditError: the prompt has fewer visual tokens than the edit speaks of.
        """
        positions = visual_T.nonzero().flatten()
        if not len(positions):
            return states_TD
        if len(self.places) and int(self.places.max()) >= len(positions):
            raise EditError(
                f"the edit changes visual token {int(self.places.max())}, the picture has {len(positions)} of them"
            )
        where = positions[self.places.to(positions.device)]
        delta = self.delta_SD.to(device=states_TD.device, dtype=states_TD.dtype)
        return states_TD.index_add(0, where.to(states_TD.device), delta)

    def fields(self) -> dict[str, Any]:
        return {"layer": self.layer}

    def tensors(self) -> dict[str, Tensor]:
        return {"places": self.places, "delta": self.delta_SD}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        return cls(int(fields["layer"]), tensors["places"].to(torch.long), tensors["delta"])
