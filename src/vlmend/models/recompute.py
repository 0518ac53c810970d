"""A decoder whose layers keep only what enters them, and are run again on the way back (gradient checkpointing).

The library's own switches caches off, from which rows go on here (`prefix.py`). A layer that is run again must find its
part of the cache as it was the first time: it gets a copy of it that has not been filled.

Chen et al., *Training Deep Nets with Sublinear Memory Cost*, arXiv 1604.06174.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from vlmend.models.caches import ends_run
from vlmend.models.parts import Parts
from vlmend.models.trace import called_through

__all__ = ["recomputing"]


@contextmanager
def recomputing(parts: Parts) -> Generator[None]:
    """Within the block layers of the decoder are run again when a gradient is taken."""
    with ExitStack() as stack:
        for index, layer in enumerate(parts.layers):
            stack.enter_context(called_through(layer, _Again(index)))
        yield


class _Again:
    def __init__(self, index: int) -> None:
        self._index = index

    def __call__(self, forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
        cache: Any = named.get("past_key_values")
        if not torch.is_grad_enabled() or (cache is not None and ends_run(cache, self._index)):
            return forward(*args, **named)
        if not isinstance(cache, DynamicCache):
            return checkpoint(forward, *args, use_reentrant=False, **named)
        rest = {name: value for name, value in named.items() if name != "past_key_values"}
        unfilled = copy.copy(cache.layers[self._index])
        first = True

        def run(*values: Any, **more: Any) -> Any:
            nonlocal first
            mine, first = (cache if first else self._copied(cache, unfilled)), False
            return forward(*values, past_key_values=mine, **more)

        return checkpoint(run, *args, use_reentrant=False, **rest)

    def _copied(self, cache: DynamicCache, unfilled: Any) -> DynamicCache:
        copied = copy.copy(cache)
        copied.layers = [*cache.layers]
        copied.layers[self._index] = copy.copy(unfilled)
        return copied
