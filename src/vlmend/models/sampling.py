"""Answers that are drawn and not the likeliest ones, in a way that can be drawn again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from vlmend.models.greedy import GREEDY

__all__ = ["Sampling"]


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
