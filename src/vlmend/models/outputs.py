"""What a model is asked and what it gives: questions, teacher-forced outputs, and its own answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmend.models.pictures import Pictures
from vlmend.models.prepared import Row

__all__ = ["Question", "Reply", "RowOutput", "RunOutput", "kl_divergence", "row_output"]


@dataclass(frozen=True, eq=False)
class RowOutput:
    """Teacher-forced output of one row.

    Attributes:
        logits_NV: logits at the positions that predict the target's tokens; in float32.
        target_N: the target's tokens: the answer's, then what closes the turn.
        answer_length: how many of them are the answer's.
    """

    logits_NV: Tensor
    target_N: Tensor
    answer_length: int

    @property
    def probability(self) -> float:
        """Of the answer: the geometric mean of its tokens'; nan without any."""
        values_NV = self.logits_NV[: self.answer_length].log_softmax(-1)
        target_N1 = self.target_N[: self.answer_length, None].to(values_NV.device)
        return float(values_NV.gather(-1, target_N1).mean().exp())


@dataclass(frozen=True, eq=False)
class RunOutput:
    """Teacher-forced outputs, one for each row, in their order."""

    rows: tuple[RowOutput, ...]


@dataclass(frozen=True)
class Reply:
    """A model's own answer, and its tokens up to and with the one that ended it; how it begins, if not ``ended``."""

    text: str
    tokens: tuple[int, ...]
    ended: bool = True


@dataclass(frozen=True, eq=False)
class Question:
    """A question asked once."""

    question: str
    image: Pictures = None
    answer: str | None = None


def row_output(row: Row, logits_NV: Tensor) -> RowOutput:
    """A row's output with the logits where its target is predicted."""
    return RowOutput(logits_NV.float(), row.target_N.to(logits_NV.device), row.answer_length)


def kl_divergence(before_NV: Tensor, after_NV: Tensor) -> float:
    """Mean over positions of KL(before || after), in nats; takes logits or log-probabilities."""
    before, after = (torch.log_softmax(logits.float(), -1) for logits in (before_NV, after_NV))
    terms = before.exp() * (before - after)
    return float(terms.masked_fill(before == -torch.inf, 0.0).sum(-1).mean().clamp(min=0.0))
