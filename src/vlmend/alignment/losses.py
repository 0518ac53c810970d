"""Losses of preferences: pure functions of how much more likely answers have become.

The h_B that they take are log-ratios log pi(y|x) - log pi_ref(y|x) of B answers under the policy and the reference, in
nats: summed over an answer's tokens, or averaged where a loss is to be length-normalised (`answers.py`). h+ belongs to
the chosen and h- to the rejected answer, z = h+ - h- is the margin, s the logistic function. Each function returns B
losses, one for each pair; what is minimised is their mean. A margin of 0, as before the first step, is no special case.

``beta`` is the strength that keeps the policy at the reference: 1 / nat, above 0. All raise `VlmendError` where a
setting is out of its range.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vlmend.errors import VlmendError

__all__ = ["anchor", "apo_down", "apo_zero", "bco", "exo", "hinge", "ipo", "nca", "nll", "robust", "sigmoid", "sppo"]


def sigmoid(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """DPO: -(1 - e) log s(beta z) - e log s(-beta z), with e the ``label_smoothing``, from 0 up to 0.5.

    e = 0: DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7), which is BPO's loss (arXiv 2403.08730). e > 0:
    conservative DPO for labels of which a share e is wrong (Mitchell 2023, ericmitchell.ai/cdpo.pdf).

    Of one answer under two images it is mDPO's conditional preference (CoPO, arXiv 2406.11839, section 3):
    -log s(beta (h(y+ | image) - h(y+ | weakened image))).
    """
    z_B = _strength(beta) * (chosen_B - rejected_B)
    share = _share(label_smoothing)
    return -(1 - share) * logsigmoid(z_B) - share * logsigmoid(-z_B)


def robust(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Robust DPO: (-(1 - e) log s(beta z) + e log s(-beta z)) / (1 - 2e); e from 0 up to 0.5.

    In expectation over labels flipped with probability e it is DPO's loss of the true ones (Chowdhury et al. 2024,
    arXiv 2403.00409). Unlike that it has no lower bound.
    """
    z_B = _strength(beta) * (chosen_B - rejected_B)
    share = _share(label_smoothing)
    return (-(1 - share) * logsigmoid(z_B) + share * logsigmoid(-z_B)) / (1 - 2 * share)


def hinge(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1) -> Tensor:
    """max(0, 1 - beta z): SLiC's hinge on log-ratios, hinge-norm in RSO (Liu et al. 2023, arXiv 2309.06657)."""
    return torch.relu(1 - _strength(beta) * (chosen_B - rejected_B))


def ipo(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1) -> Tensor:
    """IPO: (z - 1 / (2 beta))^2 (Azar et al. 2023, arXiv 2310.12036, eq. 17, where beta is called tau).

    The paper sums over tokens; TRL averages, which is what the objective named "ipo" asks for.
    """
    return (chosen_B - rejected_B - 1 / (2 * _strength(beta))) ** 2


def apo_zero(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1) -> Tensor:
    """APO-zero: 1 - s(beta h+) + s(beta h-), for chosen answers better than the model's own.

    D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7: the chosen becomes likelier and the rejected less likely.
    """
    beta = _strength(beta)
    return torch.sigmoid(-beta * chosen_B) + torch.sigmoid(beta * rejected_B)


def apo_down(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1) -> Tensor:
    """APO-down: s(beta h+) + 1 - s(beta z), for chosen answers worse than the model's own.

    D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 8: both become less likely, the rejected more so.
    """
    beta = _strength(beta)
    return torch.sigmoid(beta * chosen_B) + torch.sigmoid(-beta * (chosen_B - rejected_B))


def bco(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1) -> Tensor:
    """-log s(beta h+) - log s(-beta h-): a binary classifier of answers, each by itself.

    BCO (Jung et al. 2024, arXiv 2404.04656) without its shift by the mean reward, as TRL's ``bco_pair``.
    """
    beta = _strength(beta)
    return -logsigmoid(beta * chosen_B) - logsigmoid(-beta * rejected_B)


def nca(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1) -> Tensor:
    """NCA of a pair: -log s(beta h+) - (log s(-beta h+) + log s(-beta h-)) / 2 (Chen et al. 2024, arXiv 2402.05369)."""
    beta = _strength(beta)
    noise_B = logsigmoid(-beta * chosen_B) + logsigmoid(-beta * rejected_B)
    return -logsigmoid(beta * chosen_B) - noise_B / 2


def exo(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """EXO of a pair: KL of (s(beta z), s(-beta z)) from the labels (1 - e, e); e above 0 and below 0.5.

    Ji et al. 2024, arXiv 2402.00856, eq. 16: the reverse of DPO's direction, so e = 0 would be infinite.
    """
    z_B = _strength(beta) * (chosen_B - rejected_B)
    share = _share(label_smoothing, least=1e-12)
    right_B = torch.sigmoid(z_B) * (logsigmoid(z_B) - math.log1p(-share))
    return right_B + torch.sigmoid(-z_B) * (logsigmoid(-z_B) - math.log(share))


def sppo(chosen_B: Tensor, rejected_B: Tensor, *, beta: float = 0.1) -> Tensor:
    """SPPO with hard labels: (h+ - 1 / (2 beta))^2 + (h- + 1 / (2 beta))^2.

    Wu et al. 2024, arXiv 2405.00675, eq. 4.7 with win probabilities of 1 and 0.
    """
    goal = 1 / (2 * _strength(beta))
    return (chosen_B - goal) ** 2 + (rejected_B + goal) ** 2


def anchor(chosen_B: Tensor, *, beta: float = 0.1, delta: float = 0.0) -> Tensor:
    """mDPO's anchor: -log s(beta h+ - delta), so that the chosen answer itself does not become less likely.

    AnchPO (Wang et al. 2024, arXiv 2406.11839, section 3), whose delta, a reward in nats, is 0 there.
    """
    if not math.isfinite(delta):
        raise VlmendError(f"delta is a finite number, not {delta}")
    return -logsigmoid(_strength(beta) * chosen_B - delta)


def nll(log_probs_B: Tensor) -> Tensor:
    """-log pi(y|x), the loss of supervised fine-tuning: the one function here of log-probabilities, not log-ratios."""
    return -log_probs_B


def _strength(beta: float) -> float:
    if not 0 < beta < math.inf:
        raise VlmendError(f"beta is a number above 0, not {beta}")
    return beta


def _share(label_smoothing: float, least: float = 0.0) -> float:
    if not least <= label_smoothing < 0.5:
        raise VlmendError(f"label_smoothing is at least {least:g} and below 0.5, not {label_smoothing}")
    return label_smoothing
