"""What objectives read: answers with their tokens' log-probabilities, and how these become one number an answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlmend.errors import UnknownNameError, VlmendError

__all__ = ["REDUCTIONS", "Answers", "Pairs", "Reading", "Side"]

Side = Literal["chosen", "rejected", "weakened"]
"""Which answers of a pair: see `Pairs`."""


def _sum(total_B: Tensor, weight_B: Tensor) -> Tensor:
    return total_B


def _mean(total_B: Tensor, weight_B: Tensor) -> Tensor:
    return total_B / torch.where(weight_B > 0, weight_B, 1)  # no weight, no total: 0


def _batch_mean(total_B: Tensor, weight_B: Tensor) -> Tensor:
    return _mean(total_B, weight_B.mean())


REDUCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": _sum,
    "mean": _mean,
    "batch-mean": _batch_mean,
}
"""How tokens become one number an answer, from their weighted sum and the sum of their weights.

"sum" is the sequence's log-probability; "mean" divides it by the answer's length; "batch-mean" by the mean length in
the batch, so that all tokens of a batch count alike: an answer's number then depends on the others."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How an answer's tokens become one number: sum_t w_t v_t, or that over sum_t w_t.

    Dense DPO (RLHF-V, arXiv 2312.00849) is ``reduce="mean"`` with a weight above 1 in the corrected segments; a loss of
    these segments alone, to be added to that of whole answers, has ``other_weight=0``.

    Attributes:
        reduce: one of `REDUCTIONS`.
        span_weight: weight of tokens in labelled spans.
        other_weight: weight of all others.

    Raises:
        UnknownNameError: there is no such reduction.
        VlmendError: a weight is below 0 or not finite, or both are 0.
    """

    reduce: str = "sum"
    span_weight: float = 1.0
    other_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.reduce not in REDUCTIONS:
            raise UnknownNameError("reduction", self.reduce, REDUCTIONS)
        weights = (self.span_weight, self.other_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise VlmendError(f"span_weight and other_weight are at least 0 and not both 0, not {weights}")

    @property
    def weighs_spans(self) -> bool:
        """Whether it makes a difference if a token is in a span."""
        return self.span_weight != self.other_weight


@dataclass(frozen=True, eq=False)
class Answers:
    """B answers, padded to one length T; everything lies along the tokens, as in `logprobs.py`.

    Attributes:
        policy_BT: log-probabilities under the model that is trained, in nats.
        mask_BT: the tokens that count; what stands elsewhere is never read.
        reference_BT: log-probabilities under the reference; ``None`` where no objective compares with it.
        spans_BT: the tokens in labelled spans; ``None`` where nothing is labelled.

    Raises:
        VlmendError: the shapes differ.
    """

    policy_BT: Tensor
    mask_BT: Tensor
    reference_BT: Tensor | None = None
    spans_BT: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("mask_BT", "reference_BT", "spans_BT"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape != self.policy_BT.shape:
                raise VlmendError(f"{name} is {tuple(tensor.shape)}, but policy_BT {tuple(self.policy_BT.shape)}")

    def __len__(self) -> int:
        return len(self.policy_BT)

    def log_probs(self, reading: Reading) -> Tensor:
        """log pi(y|x), [B].

        Raises:
            VlmendError: the reading weighs spans, and there are no labels.
        """
        return self._read(self.policy_BT, reading)

    def log_ratios(self, reading: Reading) -> Tensor:
        """log pi(y|x) - log pi_ref(y|x), [B]; exactly 0 where both models give each token the same.

        Raises:
            VlmendError: there is no reference, or the reading weighs spans and there are no labels.
        """
        if self.reference_BT is None:
            raise VlmendError("the objective compares with a reference, and these answers have no reference_BT")
        return self._read(self.policy_BT - self.reference_BT, reading)

    def _read(self, values_BT: Tensor, reading: Reading) -> Tensor:
        mask_BT = self.mask_BT.bool()
        weights_BT = self._weights(reading).to(values_BT.dtype) * mask_BT
        # filled, not multiplied by 0: padding may hold infinities
        total_B = (values_BT.masked_fill(~mask_BT, 0.0) * weights_BT).sum(-1)
        return REDUCTIONS[reading.reduce](total_B, weights_BT.sum(-1))

    def _weights(self, reading: Reading) -> Tensor:
        if not reading.weighs_spans:
            return torch.full_like(self.policy_BT, reading.other_weight)
        if self.spans_BT is None:
            raise VlmendError("the objective weighs labelled spans, and these answers have no spans_BT")
        spans_BT = self.spans_BT.bool()
        return torch.full_like(self.policy_BT, reading.other_weight).masked_fill(spans_BT, reading.span_weight)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The answers of B pairs; what no objective reads may be left out.

    Attributes:
        chosen: the better answers.
        rejected: the worse ones to the same questions and images.
        weakened: the chosen answers again, on weakened images (mDPO's image side).

    Raises:
        VlmendError: they are not equally many.
    """

    chosen: Answers
    rejected: Answers | None = None
    weakened: Answers | None = None

    def __post_init__(self) -> None:
        for name, answers in (("rejected", self.rejected), ("weakened", self.weakened)):
            if answers is not None and len(answers) != len(self.chosen):
                raise VlmendError(f"{len(self.chosen)} chosen answers, but {len(answers)} {name} ones")

    def __len__(self) -> int:
        return len(self.chosen)

    def side(self, side: Side) -> Answers:
        """The answers of one side.

        Raises:
            VlmendError: they were left out.
        """
        answers: Answers | None = getattr(self, side)
        if answers is None:
            raise VlmendError(f"the objective reads the {side} answers, and these pairs have none")
        return answers

    @property
    def margins_B(self) -> Tensor:
        """h+ - h- of each pair, summed over tokens, in nats: exactly 0 before the first step.

        Raises:
            VlmendError: there are no rejected answers, or no reference.
        """
        return self.chosen.log_ratios(Reading()) - self.side("rejected").log_ratios(Reading())
