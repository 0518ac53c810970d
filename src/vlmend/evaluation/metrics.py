"""Scores of teacher-forced logits: pure functions on tensors.

Logits and labels are aligned: row n of ``logits_NV`` predicts ``labels_N[n]``. Positions that do not count are left
out by the caller. (With Hugging Face's labels: ``logits[:-1]`` against ``labels[1:]``, where the label is not -100.)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = [
    "exact_match",
    "negative_log_likelihood",
    "ranked_agreement",
    "set_agreement",
    "token_accuracy",
]


def token_accuracy(logits_NV: Tensor, labels_N: Tensor) -> float:
    """Share of labels that are the most likely token."""
    return float((logits_NV.argmax(-1) == labels_N).float().mean())


def exact_match(logits_NV: Tensor, labels_N: Tensor) -> float:
    """1.0 if all labels are the most likely tokens, else 0.0."""
    return float((logits_NV.argmax(-1) == labels_N).all())


def negative_log_likelihood(logits_NV: Tensor, labels_N: Tensor) -> float:
    """Mean over labels of -log p, in nats."""
    return float(functional.cross_entropy(logits_NV.float(), labels_N))


def ranked_agreement(before_NV: Tensor, after_NV: Tensor, k: int = 1) -> float:
    """Share of equal entries among the k most likely tokens, compared rank by rank at every position.

    EasyEdit's T-Loc has k=1, its M-Loc k=10 (one token inserted at rank 1 shifts all others and scores 0). Sequences of
    different lengths are aligned at their ends.
    """
    length = min(len(before_NV), len(after_NV))
    before, after = (logits[len(logits) - length :].topk(k, dim=-1).indices for logits in (before_NV, after_NV))
    return float((before == after).float().mean())


def set_agreement(before_NV: Tensor, after_NV: Tensor, k: int = 10) -> float:
    """Share of the k most likely tokens before that are among the k most likely after, at every position."""
    length = min(len(before_NV), len(after_NV))
    before, after = (logits[len(logits) - length :].topk(k, dim=-1).indices for logits in (before_NV, after_NV))
    return float((before[:, :, None] == after[:, None, :]).any(-1).float().mean())
