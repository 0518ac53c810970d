"""Start a run in the middle: what the layers below one hand on is kept, and the layers from there are run again.

An edit of late layers leaves all below them as they are, in each of its steps and in each measurement. How a family
calls its layers (masks, rotary embeddings, positions) is not known here: the arguments of one full run are kept and
given again, so that the rest of the run is that of the library. What a family adds between two layers (Qwen3-VL's
deep visual features) is kept as a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlmend.models.parts import Parts
from vlmend.models.prepared import Row
from vlmend.models.trace import Call, capture

__all__ = ["Below", "record"]

_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Below:
    """What one batch was when it entered a layer.

    Attributes:
        first: index of that layer; the number of layers for the norm after the last.
        rows: the batch.
        state: of the weights below, in versions.
        entering_BTD: the states that entered.
        arguments: for every layer from there its further positional and its keyword arguments.
        added: layer -> what was added to its output before the next one; [B, T, D].
        exact: whether norm and head alone make the model's logits out of the last states. Where they do not (capped
            logits), a run cannot start in the middle.
    """

    first: int
    rows: tuple[Row, ...]
    state: int
    entering_BTD: Tensor
    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    added: dict[int, Tensor]
    exact: bool

    def logits(self, parts: Parts, keep: int) -> Tensor:
        """Logits of the last ``keep`` positions, [B, keep, vocabulary], with the weights and hooks of now."""
        states_BTD = self.entering_BTD
        for index, (arguments, named) in enumerate(self.arguments, self.first):
            states_BTD = parts.layers[index](states_BTD, *arguments, **named)
            if index in self.added:
                states_BTD = states_BTD + self.added[index]
        return parts.head(parts.norm(states_BTD)[:, -keep:])


def record(
    parts: Parts, first: int, rows: tuple[Row, ...], state: int, run: Callable[[], Tensor]
) -> tuple[Tensor, Below]:
    """Run a batch whole, and keep what it was at a layer.

    Args:
        parts: the model's.
        first: where later runs begin.
        rows, state: as in `Below`.
        run: the full run; gives the logits of the last positions.
    """
    layers = {f"layer {index}": layer for index, layer in enumerate(parts.layers[first:], first)}
    with capture({**layers, "norm": parts.norm}) as calls:
        logits_BKV = run()
    above = calls[-len(layers) - 1 :]
    states = [_entered(call) for call in above]
    added: dict[int, Tensor] = {}
    for index, (call, entered) in enumerate(zip(above, states[1:], strict=False), first):
        left: Tensor = call.output.detach()
        if not torch.equal(left, entered):
            added[index] = entered - left
    with torch.no_grad():
        made = parts.head(above[-1].output[:, -1]).float()
        scale = float(logits_BKV[:, -1].abs().max().clamp(min=1e-6))
        error = float((made - logits_BKV[:, -1].float()).abs().max())
    below = Below(
        first=first,
        rows=rows,
        state=state,
        entering_BTD=states[0],
        arguments=tuple((call.args[1:], call.kwargs) for call in above[:-1]),
        added=added,
        exact=error <= _TOLERANCE * scale,
    )
    return logits_BKV, below


def _entered(call: Call) -> Tensor:
    assert call.input is not None
    return call.input.detach()
