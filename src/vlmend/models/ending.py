"""The last layer for the last positions alone: nothing looks back at what it makes of the others.

Its attention needs all positions; what comes behind that, only those whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vlmend.models.parts import Parts
from vlmend.models.resume import detached, last_of
from vlmend.models.trace import called_through, capture, reaching, short_circuited

__all__ = ["Attended", "ending"]


@dataclass(frozen=True, eq=False)
class Attended:
    """A call of the last layer, up to what its attention returned, at all positions.

    Attributes:
        entering_BTD: the states it was given.
        output: what its attention returned.
        arguments: its further positional and its keyword arguments.
    """

    entering_BTD: Tensor
    output: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def ending(parts: Parts, keep: int) -> Generator[list[Attended], None, None]:
    """Within the block the last layer gives the last ``keep`` positions only; its calls are added to the list.

    A layer whose attention is no module of its own, or is not called before its feed-forward part, is run whole.
    """
    index = len(parts.layers) - 1
    attention, feed_forward = parts.attention(index), parts.feed_forward(index)
    found: list[Attended] = []
    if attention is None or feed_forward is None:
        yield found
        return

    def way(forward: Callable[..., Tensor], states_BTD: Tensor, *args: Any, **named: Any) -> Tensor:
        with capture({"attention": attention}) as calls, reaching(feed_forward):
            forward(states_BTD, *args, **named)
        if not calls:
            return forward(states_BTD, *args, **named)
        found.append(Attended(states_BTD.detach(), detached(calls[0].output), (args, named)))
        with short_circuited(attention, last_of(calls[0].output, keep)):
            return forward(states_BTD[:, -keep:], *args, **named)

    with called_through(parts.layers[index], way):
        yield found
