"""What lessons of trained editors share: their losses, the answers before any edit, and how a check is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.editors.training import Check
from vlmend.models.above import Above
from vlmend.models.prepared import Row

__all__ = ["Graded", "Unedited", "check_of", "cross_entropy", "divergence", "one_of"]


class Unedited:
    """Log-probabilities before any edit; found once for each row."""

    def __init__(self, above: Above) -> None:
        self._above = above
        self._known: dict[int, Tensor] = {}

    @torch.no_grad()
    def of(self, rows: Sequence[Row]) -> list[Tensor]:
        """Of each row at the positions that predict its target, [N, vocabulary]."""
        if fresh := [row for row in rows if id(row) not in self._known]:
            for row, logits_NV in zip(fresh, self._above.run(fresh, [()] * len(fresh)), strict=True):
                self._known[id(row)] = logits_NV.log_softmax(-1)
        return [self._known[id(row)] for row in rows]


def cross_entropy(logits: Sequence[Tensor], rows: Sequence[Row]) -> Tensor:
    """Mean over all rows' target tokens, in nats."""
    joined = torch.cat(list(logits))
    return functional.cross_entropy(joined, torch.cat([row.target_N for row in rows]).to(joined.device))


def divergence(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """KL(before || after) of log-probabilities and logits, mean over all rows' target tokens, in nats."""
    before_NV, after_NV = torch.cat(list(before)), torch.cat(list(after)).log_softmax(-1)
    return (before_NV.exp() * (before_NV - after_NV)).sum(-1).mean()


def one_of(count: int, draw: torch.Generator) -> int:
    """One of so many places."""
    return int(torch.randint(count, (), generator=draw))


@dataclass(frozen=True, eq=False)
class Graded:
    """One row of a check: what it shows, its logits, and the log-probabilities that must stay; ``None`` for a row
    that must give its target."""

    kind: str
    row: Row
    logits_NV: Tensor
    before_NV: Tensor | None


def check_of(graded: Iterable[Graded]) -> Check:
    """The share of rows all of whose tokens are likeliest, by kind: their mean is the score."""
    right: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for one in graded:
        logits_NV, before_NV = one.logits_NV, one.before_NV
        target_N = one.row.target_N.to(logits_NV.device) if before_NV is None else before_NV.argmax(-1)
        right.setdefault(one.kind, []).append(float((logits_NV.argmax(-1) == target_N).all()))
        loss = cross_entropy([logits_NV], [one.row]) if before_NV is None else divergence([before_NV], [logits_NV])
        losses.setdefault(one.kind, []).append(float(loss))
    shares = {kind: _mean(some) for kind, some in right.items()}
    return Check(_mean(list(shares.values())), sum(_mean(some) for some in losses.values()), shares)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
