"""A run up to a layer, and one from a layer on: those below it are not run again, because what they gave is known.

Unlike in `resume.py`, which calls the layers above itself, the model is run as ever: its lowest layers give what is
known, and it makes masks, positions and rotary embeddings itself, and adds what it adds between two layers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from vlmend.models.parts import Parts
from vlmend.models.trace import capture, reaching, short_circuited

__all__ = ["starting", "states_behind"]


@contextmanager
def starting(parts: Parts, layers: int, states_BTD: Tensor) -> Generator[None, None, None]:
    """Within the block the lowest layers compute nothing, and the last of them gives these states; what acts on its
    output acts on them."""
    with ExitStack() as stack:
        for layer in parts.layers[:layers]:
            stack.enter_context(short_circuited(layer, states_BTD))
        yield


def states_behind(parts: Parts, layers: Sequence[int], run: Callable[[], Any]) -> list[Tensor]:
    """What some layers make of the batch that a run begins with: of each [B, T, D]; none if it never gets to them.

    The run is stopped above the last of them.
    """
    following = (*parts.layers, parts.norm)[max(layers) + 1]
    with capture({str(layer): parts.layers[layer] for layer in layers}) as calls, reaching(following):
        run()
    found = {int(call.name): call.output for call in calls}
    return [found[layer] for layer in layers if found]
