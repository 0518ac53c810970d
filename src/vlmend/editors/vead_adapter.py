"""The weights of `vead`: the Visual Edit Adapter and its Influence Mapper, by an edit's side and by the states' side.

Chen et al., AAAI 2025, arXiv 2408.09916, section 4. An edit's side is worked out once, when an edit is made: from the
states E [L, D] of its picture, prompt and target behind the edit layer, keys and values W_key norm(E), W_value norm(E),
and from the last prompt token's state e the vector w = F'(norm(e)) that opens the gate. The states' side, and what is
added to them, is `vlmend.edits.attend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmend.edits.attend import attend

__all__ = ["Adapter", "Live"]

_OF_THE_EDIT = ("edit_norm", "key", "value", "gate_edit_norm", "gate_edit_in", "gate_edit_out")


class Adapter(nn.Module):
    """An adapter for one layer.

    Its parameters are named as `vlmend.edits.attend` names them; in the paper's terms ``enter`` and ``leave`` are the
    MLPs at its beginning and end, and all of ``gate`` is the Influence Mapper. It begins as one that adds nothing.
    ``leave`` is held in units of the size of a state's entries, which differs between models by orders of magnitude:
    a step of training then moves states as far in one as in another.

    Args:
        dim: width of the states, D.
        width: of queries, keys and values, M.
        heads: into which these are split, and D for the gate.
        gate_width: inner width of the mapper's maps; 0 for an adapter without a gate.
        unit: root mean square of the states' entries.
    """

    unit: Tensor

    def __init__(self, dim: int, width: int, heads: int, gate_width: int, unit: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("unit", torch.tensor(unit))
        self.heads = heads
        self.norm, self.edit_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.enter, self.query = nn.Linear(dim, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(dim, width), nn.Linear(dim, width)
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.gated = gate_width > 0
        if self.gated:
            self.gate_norm, self.gate_edit_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.gate_in, self.gate_out = nn.Linear(dim, gate_width), nn.Linear(gate_width, dim)
            self.gate_edit_in, self.gate_edit_out = nn.Linear(dim, gate_width), nn.Linear(gate_width, dim)

    def states_side(self) -> dict[str, Tensor]:
        """What `vlmend.edits.attend` needs for every edit alike; gradients reach the parameters."""
        shared: dict[str, Tensor] = {
            name: x for name, x in self.named_parameters() if name.split(".")[0] not in _OF_THE_EDIT
        }
        return shared | {name: shared[name] * self.unit for name in ("leave.weight", "leave.bias")}

    def edit_side(self, states_LD: Tensor, asked: int) -> dict[str, Tensor]:
        """What `vlmend.edits.attend` needs for one edit beside these: its ``key`` and ``value``, and ``gate`` [D] of a
        gated adapter; gradients reach the parameters.

        Args:
            states_LD: states of the edit's picture, prompt and target behind the layer.
            asked: index of the last prompt token.
        """
        states_LD = states_LD.to(self.norm.weight.dtype)
        normed_LD = self.edit_norm(states_LD)
        made = {"key": self.key(normed_LD), "value": self.value(normed_LD)}
        if self.gated:
            asked_D = self.gate_edit_norm(states_LD[asked])
            opened_D = self.gate_edit_out(functional.relu(self.gate_edit_in(asked_D))) + asked_D
            # The mean over heads of <u_h, w_h> / sqrt(D / heads).
            made["gate"] = opened_D / (self.heads * (len(opened_D) / self.heads) ** 0.5)
        return made

    @classmethod
    def sized(cls, tensors: dict[str, Tensor], heads: int) -> Adapter:
        """The adapter that has these parameters, ready to be used.

        Raises:
            KeyError, RuntimeError: they are not those of an adapter.
        """
        gate: Any = tensors.get("gate_in.weight")
        width, dim = tensors["enter.weight"].shape
        adapter = cls(dim, width, heads, 0 if gate is None else len(gate))
        adapter.load_state_dict(tensors)
        return adapter.requires_grad_(False).eval()


@dataclass(frozen=True, eq=False)
class Live:
    """An adapter at work on the states behind a layer, as a `FunctionOp` that gradients pass.

    Attributes:
        layer: index of the decoder layer.
        tensors: both sides of an adapter.
        heads: of the adapter.
    """

    reads_question: ClassVar[bool] = False

    layer: int
    tensors: Mapping[str, Tensor]
    heads: int

    def check(self, layers: int, width: int) -> None:
        """It is made for the model at hand."""

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        positions = visual_T.nonzero().flatten().to(states_TD.device)
        added = attend(states_TD[positions].float(), self.tensors, heads=self.heads)
        return states_TD.index_add(0, positions, added.to(states_TD.dtype))
