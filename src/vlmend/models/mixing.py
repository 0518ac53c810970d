"""Logits that operations change: what is asked, as they are given it, and where they act in runs and in generation.

Such an operation never looks into the model: it is given the question and what enters the token stream of the pictures,
and gives other logits for the tokens that follow what has been said. It therefore works alike behind whole runs, runs
from beginnings, and steps of cached generation, and what it leaves alone stays bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vlmend.models.feed import Feeder
from vlmend.models.logits import Rewrite
from vlmend.models.outputs import RowOutput
from vlmend.models.parts import Parts
from vlmend.models.prepared import Prepared, Row
from vlmend.models.prompts import MARKER

__all__ = ["LogitsOperation", "Mixer", "Mixing", "Query", "mixed", "stepwise"]


@dataclass(frozen=True, eq=False)
class Query:
    """What a row asks; nothing of its answer.

    Attributes:
        words_K: tokens of its question, without template, pictures' places, or texts put before it.
        visual_SD: what of its pictures enters the token stream, one after another; ``None`` without a picture.
        table_VD: the model's embedding of every token that it can say.
    """

    words_K: Tensor
    visual_SD: Tensor | None
    table_VD: Tensor


@dataclass(frozen=True, eq=False)
class Mixing:
    """How an operation takes one query.

    Attributes:
        score: how far it is in the operation's scope, 0 to 1.
        mix: the new logits, given the tokens said, [N], and the model's logits for what follows them, [K, V]: each of
            the last K - 1 of them, and the next; ``None`` to abstain.
    """

    score: float
    mix: Callable[[Tensor, Tensor], Tensor] | None


@runtime_checkable
class LogitsOperation(Protocol):
    """Changes what is held likely to be said, out of what is asked and what has been said."""

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with another number of layers or width by an `EditError`."""
        ...

    def mixing(self, query: Query) -> Mixing:
        """How it takes a query."""
        ...


class Mixer:
    """Finds what changes rows' logits, for one model."""

    def __init__(self, parts: Parts, tokenizer: Any, feeder: Feeder) -> None:
        self._parts = parts
        self._tokenizer = tokenizer
        self._feeder = feeder

    def mixings(self, prepared: Prepared, ops: Sequence[Sequence[LogitsOperation]]) -> dict[int, Mixing]:
        """What changes each row's logits, by its place: of several operations the one in whose scope it is most, of
        equal ones the last; rows at which that abstains have none."""
        places = [index for index, mine in enumerate(ops) if mine]
        queries = self.queries(prepared.take(places)) if places else []
        found: dict[int, Mixing] = {}
        for index, query in zip(places, queries, strict=True):
            best = max((op.mixing(query) for op in reversed(ops[index])), key=lambda one: one.score)
            if best.mix is not None:
                found[index] = best
        return found

    @torch.no_grad()
    def queries(self, prepared: Prepared) -> list[Query]:
        """What rows ask, with the pictures as the decoder is shown them now; of equal pictures it is held once."""
        seen: dict[str, Tensor] = {}
        table_VD = self._table()
        made: list[Query] = []
        for row in prepared.rows:
            picture = (row.plain or row).picture
            if picture is not None and picture not in seen:
                seen[picture] = self._feeder.visual_states(picture, prepared)
            made.append(Query(self._words(row), None if picture is None else seen[picture], table_VD))
        return made

    def _table(self) -> Tensor:
        embed: Any = self._parts.embed
        head: Any = self._parts.head
        return embed.weight.detach()[: len(head.weight)]

    def _words(self, row: Row) -> Tensor:
        words = self._tokenizer.encode(row.question.replace(MARKER, " "), add_special_tokens=False)
        return torch.tensor(words, dtype=torch.long)


def mixed(output: RowOutput, mixing: Mixing) -> RowOutput:
    """A teacher-forced output with its logits changed."""
    if mixing.mix is None or not len(output.target_N):
        return output
    return replace(output, logits_NV=mixing.mix(output.target_N[:-1], output.logits_NV).to(output.logits_NV))


def stepwise(mixings: Mapping[int, Mixing], ends: Sequence[int]) -> Rewrite:
    """What changes the logits of a step of generation: a function of the tokens that rows have said, [B, N], and their
    logits for the next, [B, V]. What must not be said stays so, and rows that have ended are left alone.

    Args:
        mixings: place of a row in the batch -> what changes its logits.
        ends: tokens that end an answer.
    """

    def rewrite(said_BN: Tensor, logits_BV: Tensor) -> Tensor:
        logits_BV = logits_BV.clone()
        for index, one in mixings.items():
            said_N, logits_V = said_BN[index], logits_BV[index]
            if one.mix is None or (len(said_N) and int(said_N[-1]) in ends):
                continue
            new_V = one.mix(said_N, logits_V[None])[0].to(logits_V)
            logits_BV[index] = new_V.masked_fill(logits_V.isneginf(), -torch.inf)
        return logits_BV

    return rewrite
