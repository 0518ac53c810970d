"""What lessons of trained editors share: cases with other targets, losses, the answers before any edit, and how a check
is counted."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.data.records import EditCase
from vlmend.editors.training import Check
from vlmend.models.above import Above
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM

__all__ = ["Graded", "Unedited", "check_of", "cross_entropy", "divergence", "one_of", "retargeted"]

_AT_ONCE = 64  # cases that are run together
_PLAUSIBLE = 2  # times as many answers as are drawn, to draw them from


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


def retargeted(
    vlm: VLM, cases: Sequence[EditCase], count: int, *, learns: Collection[str], seed: int
) -> list[list[EditCase]]:
    """Every case, followed by the same with so many other targets at all that must follow.

    These are drawn from the answers that the model holds likeliest there, by their first tokens: a country is asked
    for and a country is answered.

    Args:
        vlm: the model.
        cases: which.
        count: how many other targets each gets; 0 for none.
        learns: the kinds of probes that must follow.
        seed: of the draw.
    """
    answers = sorted({e.answer for c in cases for e in (c.request, *(p.example for p in c.probes)) if e.answer})
    if not count or not answers:
        return [[case] for case in cases]
    rng = random.Random(seed)
    made: list[list[EditCase]] = []
    for start in range(0, len(cases), _AT_ONCE):
        some = cases[start : start + _AT_ONCE]
        prepared = vlm.prepare([case.request for case in some])
        opening = torch.stack([vlm.following(prepared.rows[0], answer).target_N[0] for answer in answers])
        with torch.no_grad():
            outputs = vlm.run(prepared).rows
        for case, output in zip(some, outputs, strict=True):
            order = output.logits_NV[0].cpu()[opening].argsort(descending=True, stable=True).tolist()
            others = [answers[at] for at in order if _like_length(answers[at], case.request.answer or "")]
            likely = others[: _PLAUSIBLE * count]
            drawn = rng.sample(likely, min(count, len(likely)))
            made.append([case, *(_with_target(case, answer, learns) for answer in drawn)])
    return made


def _with_target(case: EditCase, answer: str, learns: Collection[str]) -> EditCase:
    probes = tuple(
        replace(probe, example=replace(probe.example, answer=answer)) if probe.kind in learns else probe
        for probe in case.probes
    )
    return replace(case, request=replace(case.request, answer=answer), probes=probes)


def _like_length(one: str, other: str) -> bool:
    """Whether two answers differ, by less than half in their number of words."""
    short, long = sorted(len(text.split()) for text in (one, other))
    return one != other and long < 2 * short
