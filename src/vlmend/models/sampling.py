"""Answers that are drawn and not the likeliest ones, in a way that can be drawn again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from vlmend.models.greedy import GREEDY
from vlmend.models.logits import Rewrite

__all__ = ["Draws", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; the same rows in the same order get the same answers.

    Attributes:
        temperature: above 0; what logits are divided by.
        seed: of the draws.
    """

    temperature: float = 1.0
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """For transformers' generation."""
        return GREEDY | {"do_sample": True, "temperature": self.temperature, "top_k": 0}

    @contextmanager
    def drawing(self, device: torch.device) -> Generator[None]:
        """Within the block this is where draws begin; outside, random numbers are as if nothing had been drawn."""
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            yield

    def after(self, rewrite: Rewrite | None, rows: Sequence[int]) -> Rewrite | None:
        """What changes the logits that are drawn from: nothing of itself."""
        return rewrite


@dataclass(frozen=True)
class Draws:
    """How answers are drawn, each row's by a seed of its own: the same ones whatever else is asked with it.

    A token is where a number, uniform and made of the row's seed and how much it has said, falls in the distribution.

    Attributes:
        seeds: one a row.
        temperature: above 0; what logits are divided by.
        top_p: of the likeliest tokens as many as have this much probability together may be said.
    """

    seeds: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        """For transformers' generation: what is likeliest after `after` was drawn."""
        return GREEDY

    def drawing(self, device: torch.device) -> AbstractContextManager[None]:
        """Nothing: no random numbers of the process are used."""
        return nullcontext()

    def after(self, rewrite: Rewrite | None, rows: Sequence[int]) -> Rewrite:
        """What makes of logits such ones that the drawn token is all that can be said.

        Args:
            rewrite: what changes the model's own logits first.
            rows: the places, among ``seeds``, of the rows that are run together.
        """
        seeds = [self.seeds[row] for row in rows]

        def drawn(said_BN: Tensor, logits_BV: Tensor) -> Tensor:
            if rewrite is not None:
                logits_BV = rewrite(said_BN, logits_BV)
            sorted_BV, order_BV = (logits_BV.double() / self.temperature).softmax(-1).sort(-1, descending=True)
            before_BV = sorted_BV.cumsum(-1) - sorted_BV
            kept_BV = sorted_BV.masked_fill(before_BV >= self.top_p, 0.0)
            step = said_BN.shape[1]
            uniform_B = kept_BV.new_tensor([Random(f"{seed}/{step}").random() for seed in seeds])
            reached_BV = kept_BV.cumsum(-1) > uniform_B[:, None] * kept_BV.sum(-1, keepdim=True)
            token_B1 = order_BV.gather(-1, reached_BV.int().argmax(-1, keepdim=True))
            return torch.full_like(logits_BV, -torch.inf).scatter(-1, token_B1, 0.0)

        return drawn
