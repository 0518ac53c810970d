"""Operations that add to visual states a function of these states, and the functions there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmend.edits.attend import attend
from vlmend.edits.ops import Op
from vlmend.errors import EditError

__all__ = ["FUNCTIONS", "FunctionOp", "StateFunction"]


StateFunction = Callable[..., Tensor]
"""``f(states_SD, tensors, **settings)``: what is added to each of some states, [S, D]."""

FUNCTIONS: dict[str, StateFunction] = {"attend": attend}
"""Name in files -> function. What a function does with given tensors must not change: saved edits rest on it."""


@dataclass(frozen=True, eq=False)
class FunctionOp(Op):
    """Adds a function of the visual states to them, behind one decoder layer.

    It acts on all pictures of a row, and on none where there is none; tokens that are generated later see it through
    the layers above and their cache. The function is computed in float32.

    Attributes:
        layer: index of the decoder layer after which it acts.
        width: of the states.
        function: its name in `FUNCTIONS`.
        tensors_by_name: what the function is given; shared with other operations, not copied, and not to be changed.
        settings: JSON values that the function is given by name.

    Raises:
        EditError: there is no such function, or it cannot work on states of this width with these tensors.
    """

    kind: ClassVar[str] = "function"
    reads_question: ClassVar[bool] = False

    layer: int
    width: int
    function: str
    tensors_by_name: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise EditError(f"no function of states named '{self.function}'; there are: {', '.join(FUNCTIONS)}")
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors_by_name.items()}
        object.__setattr__(self, "tensors_by_name", held)
        try:
            shape = tuple(self.value(torch.zeros(1, self.width)).shape)
        except (KeyError, RuntimeError, TypeError) as error:
            raise EditError(f"the function '{self.function}' does not work with its tensors: {error}") from error
        if shape != (1, self.width):
            raise EditError(f"the function '{self.function}' makes {shape} out of one state of width {self.width}")

    def value(self, states_SD: Tensor) -> Tensor:
        """What it adds to states, in their type. (Not called `added`, by which the executor knows neurons.)"""
        tensors = {name: tensor.to(states_SD.device) for name, tensor in self.tensors_by_name.items()}
        return FUNCTIONS[self.function](states_SD.float(), tensors, **self.settings).to(states_SD.dtype)

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with other layers or another width.

        Raises:
            EditError: says which.
        """
        if not 0 <= self.layer < layers:
            raise EditError(f"the edit acts after layer {self.layer}; the model has {layers} layers")
        if self.width != width:
            raise EditError(f"the edit's function takes states of width {self.width}, the model's have {width}")

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        """The states of one prompt with the function's value added at its visual tokens."""
        positions = visual_T.nonzero().flatten().to(states_TD.device)
        if not len(positions):
            return states_TD
        return states_TD.index_add(0, positions, self.value(states_TD[positions]))

    def fields(self) -> dict[str, Any]:
        return {"layer": self.layer, "width": self.width, "function": self.function, "settings": dict(self.settings)}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.tensors_by_name)

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        return cls(int(fields["layer"]), int(fields["width"]), fields["function"], tensors, fields["settings"])
