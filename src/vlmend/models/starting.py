"""A run from a layer on: those below it are not run again, because what they gave is known.

Unlike in `resume.py`, which calls the layers above itself, the model is run as ever: its lowest layers give what is
known, and it makes masks, positions and rotary embeddings itself, and adds what it adds between two layers.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from torch import Tensor

from vlmend.models.parts import Parts
from vlmend.models.trace import short_circuited

__all__ = ["starting"]


@contextmanager
def starting(parts: Parts, layers: int, states_BTD: Tensor) -> Generator[None, None, None]:
    """Within the block the lowest layers compute nothing, and the last of them gives these states; what acts on its
    output acts on them."""
    with ExitStack() as stack:
        for layer in parts.layers[:layers]:
            stack.enter_context(short_circuited(layer, states_BTD))
        yield
