"""What lessons share that teach which prompt is about which edit: the losses of pairs, and the bar of what is recalled.

In each step some cases are taken as the edits in force. A prompt must agree with its own edit if it is about the same
matter, and with none if it is a near miss or any other case's prompt. With z the lead of a prompt for an edit, positive
where it would be recalled,

    own    =  mean over own pairs of  log(1 + exp(-z))
    near   =  mean over near misses with the edit they are close to of  log(1 + exp(z))
    other  =  mean over prompts of the sum over all other edits of  log(1 + exp(z))

which are binary cross-entropies of sigmoid(z). Two cases of which the model gives the same answer may be about the same
matter; such pairs are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["BARS", "best_bar", "recall_losses"]

BARS = torch.linspace(0.0, 0.99, 199)
"""The bars that are tried. A prompt agrees with itself but for rounding."""

_AS_GOOD = 0.005  # bars that are as good but for chance: the middle one is kept


def recall_losses(
    lead_NE: Tensor, owners: Sequence[int], about: Sequence[bool], said: Sequence[str]
) -> dict[str, Tensor]:
    """The losses of pairs, by name; those of which there are no pairs are left out.

    Args:
        lead_NE: of each prompt for each edit.
        owners: whose each prompt is, by the edit's place.
        about: whether it is about the same matter.
        said: what the model says of each edit's request; empty where that is not known.
    """
    own_NE = functional.one_hot(torch.tensor(owners), len(said)).bool()
    about_N1 = torch.tensor(about)[:, None]
    unsure_EE = torch.tensor([[bool(one) and one == other for other in said] for one in said])
    unsure_NE = unsure_EE[list(owners)] & ~own_NE
    own_NE, about_N1, unsure_NE = (some.to(lead_NE.device) for some in (own_NE, about_N1, unsure_NE))
    terms = {
        "own": functional.softplus(-lead_NE[own_NE & about_N1]).mean(),
        "near": functional.softplus(lead_NE[own_NE & ~about_N1]).mean(),
        "other": (functional.softplus(lead_NE) * (~own_NE & ~unsure_NE)).sum(-1).mean(),
    }
    return {name: term for name, term in terms.items() if bool(torch.isfinite(term))}  # none of that kind


def best_bar(right: Mapping[str, Tensor]) -> tuple[float, float, dict[str, float]]:
    """The bar amid those with the highest mean over kinds of the share that is right; that mean, and the shares.

    Args:
        right: kind -> for each of the bars whether each prompt is answered rightly, [N, B].
    """
    shares = {kind: right_NB.float().mean(0) for kind, right_NB in right.items()}
    mean_B = torch.stack(list(shares.values())).mean(0)
    near = (mean_B >= mean_B.max() - _AS_GOOD).nonzero().flatten()
    best = int(near[len(near) // 2])
    return float(BARS[best]), float(mean_B[best]), {kind: float(share_B[best]) for kind, share_B in shares.items()}
