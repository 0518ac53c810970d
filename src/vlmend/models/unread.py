"""Layers at the top of a vision encoder whose outputs nobody reads: LLaVA takes its features from the last but one.

They are found by experiment, when a picture is encoded for the first time: what depends on a layer that returns
not-a-number is not a number.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlmend.models.trace import called_through, first_tensor, with_first

__all__ = ["skipping", "unread"]


def unread(vision: nn.Module, encode: Callable[[], Sequence[Tensor]]) -> tuple[nn.Module, ...]:
    """The encoder's layers, from the last one down, that what is made of a picture does not depend on.

    Args:
        vision: the encoder.
        encode: encodes some picture; everything that is made of it.
    """
    stack = max((m for m in vision.modules() if isinstance(m, nn.ModuleList)), key=len, default=nn.ModuleList())
    found: list[nn.Module] = []
    for layer in reversed(stack):
        with torch.no_grad(), called_through(layer, _spoilt):
            if any(bool(made.isnan().any()) for made in encode()):
                break
        found.append(layer)
    return tuple(found) if len(found) < len(stack) else ()


@contextmanager
def skipping(layers: Sequence[nn.Module]) -> Generator[None, None, None]:
    """Within the block these layers hand on what they are given."""
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(called_through(layer, _handed_on))
        yield


def _handed_on(_: Callable[..., Any], *args: Any, **named: Any) -> Any:
    return first_tensor(args) if args else first_tensor(named)


def _spoilt(forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    output = forward(*args, **named)
    return with_first(output, torch.full_like(first_tensor(output), torch.nan))  # type: ignore[arg-type]
