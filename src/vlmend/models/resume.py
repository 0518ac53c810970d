"""Start a run in the middle: what comes before a stage is kept, and what comes from there on is run again.

An edit of late layers leaves all below them as they are, in each of its steps and in each measurement. How a family
calls its layers (masks, rotary embeddings, positions) is not known here: the arguments of one full run are kept and
given again, so that the rest of the run is that of the library. What a family adds between two layers (Qwen3-VL's
deep visual features) is kept as a difference.

A run can begin before a layer, or behind its attention (`Parts.stage_of` counts both). In the second case the layer is
called with its attention short-circuited to what it returned; if it is the last layer, nothing after it looks back,
and only the positions whose logits are wanted are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.models.parts import Parts
from vlmend.models.prepared import Row
from vlmend.models.trace import Call, capture, first_tensor, short_circuited, with_first

__all__ = ["Below", "detached", "joined", "last_of", "record"]

_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Below:
    """What one batch was at a stage.

    Attributes:
        stage: which.
        rows: the batch.
        state: of the weights that are used before it (`Weights.state_before`).
        entering_BTD: the states that entered the stage's layer, or the norm.
        attended: what that layer's attention returned; ``None`` to run the layer whole.
        arguments: for every layer from there its further positional and its keyword arguments.
        added: layer -> what was added to its output before the next one; [B, T, D].
        exact: whether norm and head alone make the model's logits out of the last states. Where they do not (capped
            logits), a run cannot start in the middle.
    """

    stage: int
    rows: tuple[Row, ...]
    state: int
    entering_BTD: Tensor
    attended: Any
    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    added: Mapping[int, Tensor]
    exact: bool

    def logits(self, parts: Parts, keep: int) -> Tensor:
        """Logits of the last ``keep`` positions, [B, keep, vocabulary], with the weights and hooks of now."""
        return parts.head(parts.norm(self.run(parts, keep, len(parts.layers)))[:, -keep:])

    @property
    def stands_alone(self) -> bool:
        """Whether no position looks at another from here on, so that some of them can be taken by themselves."""
        return self.exact and not self.added and (self.attended is not None or not self.arguments)

    def of(self, index: int, last: int, count: int) -> Below:
        """One row, and of it the ``count`` positions up to ``last``; where the stage stands alone."""
        some = slice(last + 1 - count, last + 1)
        own = slice(index, index + 1)
        return replace(
            self,
            rows=self.rows[own],
            entering_BTD=self.entering_BTD[own, some],
            attended=_changed(self.attended, lambda x_BTD: x_BTD[own, some]),
            arguments=tuple((args, {**named, "past_key_values": None}) for args, named in self.arguments),
        )

    def run(self, parts: Parts, keep: int, end: int) -> Tensor:
        """The states before layer ``end``; of the last positions only where no more are needed."""
        first = self.stage // 2
        states_BTD = self.entering_BTD
        for index in range(first, end):
            arguments, named = self.arguments[index - first]
            with ExitStack() as stack:
                if index == first and self.attended is not None:
                    only = keep if index == len(parts.layers) - 1 else states_BTD.shape[1]
                    states_BTD = states_BTD[:, -only:]
                    attention = parts.attention(index)
                    assert attention is not None
                    stack.enter_context(short_circuited(attention, last_of(self.attended, only)))
                states_BTD = parts.layers[index](states_BTD, *arguments, **named)
            if index in self.added:
                states_BTD = states_BTD + self.added[index][:, -states_BTD.shape[1] :]
        return states_BTD


def joined(belows: Sequence[Below]) -> Below:
    """Rows taken by themselves (`Below.of`) as one batch, padded on the left with zeros."""
    length = max(below.entering_BTD.shape[1] for below in belows)

    def together(values: Sequence[Any]) -> Tensor:
        tensors: list[Any] = [first_tensor(value) for value in values]
        return torch.cat([functional.pad(one, (0, 0, length - one.shape[1], 0)) for one in tensors])

    attended = _changed(belows[0].attended, lambda _: together([one.attended for one in belows]))
    return replace(
        belows[0],
        rows=tuple(row for below in belows for row in below.rows),
        entering_BTD=together([one.entering_BTD for one in belows]),
        attended=attended,
    )


def record(
    parts: Parts, states: Mapping[int, int], rows: tuple[Row, ...], keep: int, run: Callable[[], Tensor]
) -> tuple[Tensor, dict[int, Below]]:
    """Run a batch whole, and keep what it was at some stages.

    Args:
        parts: the model's.
        states: stage -> state of the weights used before it.
        rows: the batch.
        keep: of how many last positions ``run`` gives logits.
        run: the full run; gives the logits of the last positions.
    """
    lowest = min(states) // 2
    behind = [stage // 2 for stage in states if stage % 2]
    watched = {f"layer {index}": layer for index, layer in enumerate(parts.layers[lowest:], lowest)}
    watched |= {"norm": parts.norm}
    within = {f"attention {index}": parts.attention(index) for index in behind}
    within |= {f"feed-forward {index}": parts.feed_forward(index) for index in behind}
    with capture({**watched, **{name: module for name, module in within.items() if module is not None}}) as calls:
        logits_BKV = run()
    above = [call for call in calls if call.name in watched][-len(watched) :]
    entered = [_entered(call) for call in above]
    added: dict[int, Tensor] = {}
    for index, (call, following) in enumerate(zip(above, entered[1:], strict=False), lowest):
        left: Tensor = call.output.detach()
        if not torch.equal(left, following):
            added[index] = following - left
    with torch.no_grad():
        exact = _close(parts.head(above[-1].output.detach()[:, -1]), logits_BKV[:, -1])
    found: dict[int, Below] = {}
    for stage, state in states.items():
        skipped = stage // 2 - lowest
        below = Below(
            stage=stage,
            rows=rows,
            state=state,
            entering_BTD=entered[skipped],
            attended=_attended(calls, stage // 2) if stage % 2 else None,
            arguments=tuple((call.args[1:], call.kwargs) for call in above[skipped:-1]),
            added=added,
            exact=exact,
        )
        found[stage] = _checked(below, parts, keep, entered)
    return logits_BKV, found


def _attended(calls: Sequence[Call], layer: int) -> Any:
    """What a layer's attention returned; nothing if its feed-forward part was run first, which it may depend on."""
    inside = [call for call in calls if call.name in (f"attention {layer}", f"feed-forward {layer}")]
    names = [call.name.split()[0] for call in inside]
    return detached(inside[0].output) if names == ["attention", "feed-forward"] else None


def _checked(below: Below, parts: Parts, keep: int, entered: Sequence[Tensor]) -> Below:
    """Without what attention returned, where the layer makes something else out of it than it did."""
    if below.attended is None:
        return below
    following = entered[below.stage // 2 - len(parts.layers)]  # what entered the next layer, or the norm
    with torch.no_grad():
        again = below.run(parts, keep, below.stage // 2 + 1)
    return below if _close(again, following[:, -again.shape[1] :]) else replace(below, attended=None)


def _close(one: Tensor, other: Tensor) -> bool:
    scale = float(other.float().abs().max().clamp(min=1e-6))
    return float((one.float() - other.float()).abs().max()) <= _TOLERANCE * scale


def _changed(attended: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An attention's result with other states: the tensor itself, or the first of several results."""
    states_BTD = None if attended is None else first_tensor(attended)
    return None if states_BTD is None else with_first(attended, change(states_BTD))


def _last(count: int, states_BTD: Tensor) -> Tensor:
    return states_BTD[:, -count:]


def last_of(attended: Any, count: int) -> Any:
    """An attention's result for the last positions."""
    return _changed(attended, partial(_last, count))


def detached(output: Any) -> Any:
    """A module's result without the graph behind it."""
    if isinstance(output, Tensor):
        return output.detach()
    return tuple(one.detach() if isinstance(one, Tensor) else one for one in output)


def _entered(call: Call) -> Tensor:
    assert call.input is not None
    return call.input.detach()
