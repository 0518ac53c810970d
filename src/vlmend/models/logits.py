"""Logits that are changed while transformers generates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

__all__ = ["Rewrite", "processors_of"]

Rewrite = Callable[[Tensor, Tensor], Tensor]
"""Tokens that rows have said, [B, N], and logits for the next, [B, V] -> other logits."""


def processors_of(rewrite: Rewrite | None, begin: int) -> LogitsProcessorList:
    """What generation is given.

    Args:
        rewrite: makes the logits of each step; ``None`` to leave them.
        begin: how many of the tokens that generation hands on were not said.
    """
    return LogitsProcessorList([] if rewrite is None else [_Rewriting(rewrite, begin)])


class _Rewriting(LogitsProcessor):
    """Changes the logits of each step."""

    def __init__(self, rewrite: Rewrite, begin: int) -> None:
        self._rewrite = rewrite
        self._begin = begin

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return self._rewrite(input_ids[:, self._begin :], scores)
