"""What is attributed: the model's own next token, a given answer, or the difference of two answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlmend.data.records import EditCase, Example
from vlmend.errors import AttributionError
from vlmend.models.prepared import Asked, Prepared, Row
from vlmend.models.trace import Call, capture
from vlmend.models.vlm import VLM

__all__ = ["OWN", "Clean", "Measure", "Strand", "Target", "asked", "strands"]

Measure = Literal["log_prob", "logit"]
"""What a token's value is: its log probability in nats, or its logit."""


@dataclass(frozen=True)
class Target:
    """What is asked after. Its value is the mean over its tokens of each token's value.

    Attributes:
        answer: the answer; ``None`` for the token that the model itself would say next (VisEdit's key token).
        against: another answer, whose value is subtracted: why this one rather than that one.
        token: only this token of the answer (and of the other), counted from 0; ``None`` for all.
    """

    answer: str | None = None
    against: str | None = None
    token: int | None = None

    def __post_init__(self) -> None:
        if self.answer is None and (self.against is not None or self.token is not None):
            raise AttributionError(
                "a target without an answer is the model's next token: it takes no 'against', no 'token'"
            )


OWN = Target()
"""The model's own next token."""


@dataclass(frozen=True, eq=False)
class Strand:
    """One answer in its row, teacher-forced.

    Attributes:
        prepared: the row alone.
        tokens_N: the tokens that are asked after; ``None`` until the model has said its own.
        picks_N: which of the row's target tokens they are, counted from 0.
        sign: 1, or -1 for the answer that is subtracted.
    """

    prepared: Prepared
    tokens_N: Tensor | None
    picks_N: Tensor
    sign: int = 1

    @property
    def row(self) -> Row:
        """Its row."""
        return self.prepared.rows[0]

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """Positions in the sequence that predict the tokens."""
        return tuple(len(self.row.ids_T) - 1 + int(pick) for pick in self.picks_N)

    @property
    def length(self) -> int:
        """Tokens of the whole sequence."""
        return len(self.row.ids_T) + len(self.row.target_N)

    @property
    def visual(self) -> Tensor:
        """Positions of the visual tokens: [S]."""
        return self.row.visual

    def value(self, logits_NV: Tensor, of: Measure) -> Tensor:
        """Mean value of the tokens by a run's logits, a scalar."""
        assert self.tokens_N is not None
        logits = logits_NV[self.picks_N.to(logits_NV.device)]
        values = logits.log_softmax(-1) if of == "log_prob" else logits
        return values.gather(-1, self.tokens_N.to(values.device)[:, None]).mean()

    def read(self, vlm: VLM, modules: Mapping[str, nn.Module] | None = None, first: int | None = None) -> Clean:
        """Run it as it is, and watch some modules."""
        with ExitStack() as stack:
            calls = stack.enter_context(capture(modules)) if modules else []
            logits_NV = vlm.run(self.prepared, first=first).rows[0].logits_NV
        if not torch.isfinite(logits_NV).all():
            raise AttributionError(f"the model's logits for {self.row.question!r} are not finite")
        tokens_N = logits_NV[self.picks_N].argmax(-1) if self.tokens_N is None else self.tokens_N
        return Clean(replace(self, tokens_N=tokens_N.cpu()), logits_NV, calls)


@dataclass(frozen=True, eq=False)
class Clean:
    """A strand, and what a run of it gave.

    Attributes:
        strand: with its tokens.
        logits_NV: at the positions that predict the row's target.
        calls: of the modules that were watched.
    """

    strand: Strand
    logits_NV: Tensor
    calls: list[Call]

    def of(self, name: str) -> Call:
        """The first call of a watched module.

        Raises:
            AttributionError: it was not run.
        """
        found = next((call for call in self.calls if call.name == name), None)
        if found is None:  # layers that look at pictures, for a question without one
            raise AttributionError(f"'{name}' has no part in the answer to {self.strand.row.question!r}")
        return found


def asked(example: Asked | EditCase) -> Example:
    """The example behind what is given: for an edit case its request."""
    if isinstance(example, EditCase):
        return example.request
    return example if isinstance(example, Example) else Example(example.question, example.image, example.answer)


def strands(vlm: VLM, example: Example, target: Target) -> list[Strand]:
    """The rows that a target is read from: one, or two for a difference.

    Raises:
        AttributionError: an answer has no tokens, or not the one that is asked after.
        PromptError: the example cannot be turned into this model's input.
    """
    if target.answer is None:
        prepared = vlm.prepare([replace(example, answer=None)])
        # What follows the prompt is only there to have a position that predicts it.
        row = replace(prepared.rows[0], target_N=torch.tensor(vlm.ends[:1]), answer_length=1)
        return [Strand(replace(prepared, rows=(row,)), None, torch.tensor([0]))]
    answers = [target.answer] if target.against is None else [target.answer, target.against]
    return [_strand(vlm, example, answer, target.token, sign) for answer, sign in zip(answers, (1, -1), strict=False)]


def _strand(vlm: VLM, example: Example, answer: str, token: int | None, sign: int) -> Strand:
    prepared = vlm.prepare([replace(example, answer=answer)])
    row = prepared.rows[0]
    if not row.answer_length:
        raise AttributionError(f"the answer {answer!r} has no tokens: there is nothing to attribute")
    if token is not None and not 0 <= token < row.answer_length:
        raise AttributionError(f"the answer {answer!r} has no token {token}: it has {row.answer_length}")
    picks_N = torch.arange(row.answer_length) if token is None else torch.tensor([token])
    return Strand(prepared, row.target_N[picks_N], picks_N, sign)


def described(vlm: VLM, cleans: Sequence[Clean], of: Measure) -> dict[str, Any]:
    """What was asked after, in words and numbers, for a result: its tokens' texts and ids, and its value."""
    values = [float(clean.strand.value(clean.logits_NV, of)) for clean in cleans]
    ids = [clean.strand.tokens_N.tolist() for clean in cleans if clean.strand.tokens_N is not None]
    return {
        "tokens": [[vlm.tokenizer.decode([token]) for token in some] for some in ids],
        "ids": ids,
        "of": of,
        "value": sum(value * clean.strand.sign for value, clean in zip(values, cleans, strict=True)),
    }
