"""Two branches that say one answer: the likelihoods of one are sharpened by what the other holds unlikely.

Both branches are rows of one batch, each with a cache of its own, and are told the same token at every step: with one
cache for both a row would be compared with itself from the second token on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmend.errors import VlmendError
from vlmend.models.logits import Rewrite
from vlmend.models.prepared import Prepared

__all__ = ["Contrast"]


@dataclass(frozen=True, eq=False)
class Contrast:
    """Tokens are said by (1 + w) log p - w log q, of rows and of others.

    Attributes:
        other: the others, one for each row, with whatever differs in what they see.
        weight: w; at 0 the rows' own likelihoods.
        plausible: a token is said only if p is at least this share of that of the likeliest token; else what both
            branches hold unlikely would be said where q holds it unlikelier (VCD, arXiv 2311.16922, equation 4).

    Raises:
        VlmendError: the weight is below 0, or the share not between 0 and 1.
    """

    other: Prepared
    weight: float = 1.0
    plausible: float = 0.1

    def __post_init__(self) -> None:
        if not self.weight >= 0 or not 0 <= self.plausible <= 1:
            raise VlmendError(
                f"a contrast has a weight from 0 on and a share from 0 to 1, not {self.weight:g} and {self.plausible:g}"
            )

    def mixed(self, own_BV: Tensor, other_BV: Tensor) -> Tensor:
        """The logits that are said by; what must not be said stays so."""
        p_BV, q_BV = own_BV.float().log_softmax(-1), other_BV.float().log_softmax(-1)
        least_B1 = p_BV.amax(-1, keepdim=True) + torch.tensor(self.plausible).log().to(p_BV)
        never_BV = own_BV.isneginf() | (p_BV < least_B1)
        mixed_BV = (1 + self.weight) * p_BV - self.weight * q_BV.clamp_min(-1e4)  # infinities have no difference
        return mixed_BV.masked_fill(never_BV, -torch.inf)

    def both(self, rewrite: Rewrite | None, drawn: Rewrite | None) -> Rewrite:
        """What makes the logits of a batch of rows and, behind them, the others.

        Args:
            rewrite: what changes the model's own logits first, of both branches.
            drawn: what draws of the mixed ones, of rows alone.
        """

        def mix(said_BN: Tensor, logits_BV: Tensor) -> Tensor:
            if rewrite is not None:
                logits_BV = rewrite(said_BN, logits_BV)
            count = len(logits_BV) // 2
            mixed_BV = self.mixed(logits_BV[:count], logits_BV[count:])
            if drawn is not None:
                mixed_BV = drawn(said_BN[:count], mixed_BV)
            return torch.cat([mixed_BV, mixed_BV])

        return mix
