"""Low-rank changes of linear layers that are being learnt: how they begin, and what they add."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["factors_for", "product"]


def factors_for(linear: nn.Linear, rank: int, alpha: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """B and alpha/r A, [out, r] and [r, in], as they act: A is drawn and B zero, so that nothing is added at first."""
    scale = alpha / rank
    right = torch.randn(rank, linear.in_features, generator=draw) * scale / linear.in_features**0.5
    left = torch.zeros(linear.out_features, rank)
    device = linear.weight.device
    return left.to(device).requires_grad_(True), right.to(device).requires_grad_(True)


def product(left: Tensor, right: Tensor) -> Callable[[Tensor], Tensor]:
    """What factors add to a linear layer's output, out of its input."""
    return lambda x: (x.to(right.dtype) @ right.T @ left.T).to(x.dtype)
