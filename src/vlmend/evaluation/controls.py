"""Control editors: they mend nothing in earnest, and a table of scores that does not rank them as it should is wrong.

| control | what it does | where it must fail, and where not |
|---|---|---|
| ``null`` | nothing | gains nothing anywhere; all locality |
| ``random`` | random changes of weights, as large as an edit's | gains nothing; loses locality as it grows |
| ``parrot`` | says the target, whatever is asked | all reliability and generality; no locality |
| ``image-blind`` | says the target to its question, whatever the picture | fails the question about another picture |
| ``oracle`` | looks every answer up in the case's own truth | all of reliability, generality and locality |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.edits.edit import Edit
from vlmend.edits.ops import Op, WeightOp
from vlmend.edits.routes import AnswerOp, Key, RouteOp
from vlmend.evaluation.kinds import kind_of
from vlmend.models.parts import LayerSpec
from vlmend.models.vlm import VLM

__all__ = ["ImageBlind", "Null", "Oracle", "Parrot", "Random"]


@dataclass(frozen=True)
class Null:
    """Changes nothing."""

    name: ClassVar[str] = "null"

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """An edit without operations."""
        check_cases(cases)
        return edit_of(self, vlm, cases, [])


@dataclass(frozen=True)
class Random:
    """Adds noise to the weights that `ft` would fit.

    Attributes:
        layers, modules: as in `ft`.
        size: norm of the change of each matrix, as a share of the matrix's own.
        seed: of the noise.
    """

    name: ClassVar[str] = "random"

    layers: LayerSpec = "late"
    modules: tuple[str, ...] = ("mlp.down",)
    size: float = 0.05
    seed: int = 0

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """The same noise for any cases."""
        check_cases(cases)
        maker = torch.Generator().manual_seed(self.seed)
        weights = vlm.weights.named(vlm.parts.modules(self.layers, self.modules), matrices_only=True)
        noise = {name: torch.randn(weight.shape, generator=maker) for name, weight in weights.items()}
        deltas = {
            name: draw * (self.size * float(weights[name].detach().norm()) / draw.norm())
            for name, draw in noise.items()
        }
        return edit_of(self, vlm, cases, [WeightOp.deltas(deltas)])


@dataclass(frozen=True)
class Parrot:
    """Says the target of the last request to everything."""

    name: ClassVar[str] = "parrot"

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """An edit that asks nobody."""
        check_cases(cases)
        return edit_of(self, vlm, cases, [AnswerOp(cases[-1].request.answer or "")])


@dataclass(frozen=True)
class ImageBlind:
    """Says the target to the request's question, about any picture or none."""

    name: ClassVar[str] = "image-blind"

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """One route for every case."""
        check_cases(cases)
        return edit_of(self, vlm, cases, [_route(Key(question=case.request.question), case) for case in cases])


@dataclass(frozen=True)
class Oracle:
    """Looks answers up: those of the request, and of all probes that do not ask for what was said before."""

    name: ClassVar[str] = "oracle"

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """One route for every question about every picture."""
        check_cases(cases)
        asked = [case.request for case in cases]
        asked += [p.example for case in cases for p in case.probes if not kind_of(p.kind).keeps]
        known = [example for example in asked if example.question and example.answer]
        rows = vlm.prepare(known).rows
        ops: list[Op] = [
            RouteOp(Key(row.content, row.question), (AnswerOp(example.answer or ""),))
            for row, example in zip(rows, known, strict=True)
        ]
        return edit_of(self, vlm, cases, ops)


def _route(key: Key, case: EditCase) -> RouteOp:
    return RouteOp(key, (AnswerOp(case.request.answer or ""),))
