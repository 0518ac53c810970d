"""Pairs as one batch of rows, and what a model says of them as the answers that an objective reads.

A pair's answers follow the same prompt and picture: the picture is encoded once for them, and the prompt up to the end
of it run once (`models/begun.py`). Only where answers are predicted are there logits at all, so no mask can cover
anything else; `preflight` looks all the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlmend.alignment.answers import Answers, Pairs, Side
from vlmend.alignment.contrast import Contrast
from vlmend.alignment.logprobs import answer_mask, check_answers, span_labels, target_log_probs
from vlmend.alignment.objectives import Objective
from vlmend.data.records import Example, PreferencePair, SkippedPair, Span
from vlmend.errors import PromptError, VlmendError
from vlmend.models.outputs import RunOutput
from vlmend.models.pictures import open_picture
from vlmend.models.prepared import Prepared, Row
from vlmend.models.vlm import VLM

__all__ = ["Batch", "Collator", "fitting", "preflight", "token_log_probs", "unsayable"]

_AT_ONCE = 32  # pairs whose prompts are remembered, so that those of one picture and question have it processed once
_ORDER: tuple[Side, ...] = ("chosen", "rejected", "weakened")


@dataclass(frozen=True, eq=False)
class Batch:
    """Some pairs, prepared.

    Attributes:
        pairs: the records.
        sides: which answers there are.
        prepared: their rows, side by side: all of the first side, then all of the next.
        spans: of every row which of its target's tokens are in labelled spans, [N]; empty where nobody asks.
    """

    pairs: tuple[PreferencePair, ...]
    sides: tuple[Side, ...]
    prepared: Prepared
    spans: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def answers(self, policy: Sequence[Tensor], reference: Sequence[Tensor] | None) -> Pairs:
        """The answers of every side.

        Args:
            policy: log-probabilities of every row's target under the policy, [N] each.
            reference: the same under the reference.
        """
        count = len(self)
        sides: dict[Side, Answers] = {}
        for place, side in enumerate(self.sides):
            mine = slice(place * count, (place + 1) * count)
            sides[side] = Answers(
                policy_BT=pad_sequence(list(policy[mine]), batch_first=True),
                mask_BT=pad_sequence([torch.ones_like(one, dtype=torch.bool) for one in policy[mine]], True),
                reference_BT=None if reference is None else pad_sequence(list(reference[mine]), batch_first=True),
                spans_BT=pad_sequence([one.to(policy[0].device) for one in self.spans[mine]], True)
                if self.spans
                else None,
            )
        return Pairs(sides["chosen"], sides.get("rejected"), sides.get("weakened"))


class Collator:
    """Makes batches of pairs.

    Args:
        vlm: whose prompts they become.
        sides: which answers are run.
        spans: whether it matters which tokens are in labelled spans.
        contrast: how the weakened side's pictures come about.
        seed: of what that draws, for each pair by itself.
    """

    def __init__(
        self,
        vlm: VLM,
        sides: frozenset[Side],
        *,
        spans: bool = False,
        contrast: Contrast | None = None,
        seed: int = 0,
    ) -> None:
        self._vlm = vlm
        self._sides: tuple[Side, ...] = tuple(side for side in _ORDER if side in sides)
        self._spans = spans
        self._contrast = contrast
        self._seed = seed

    def __call__(self, pairs: Sequence[PreferencePair]) -> dict[str, Batch]:
        """One batch, under the name by which `Trainer` hands it on."""
        return {"batch": self.batch(pairs)}

    def batch(self, pairs: Sequence[PreferencePair]) -> Batch:
        """One batch.

        Raises:
            PromptError: a pair cannot be turned into this model's input.
            VlmendError: the labels of spans are needed, and a pair has none.
        """
        examples = [self._example(pair, side) for side in self._sides for pair in pairs]
        prepared = self._vlm.prepare(examples)
        spans: list[Tensor] = []
        if self._spans:
            rows = iter(prepared.rows)
            for side in self._sides:
                spans += [self._labels(pair, side, next(rows).target_N) for pair in pairs]
        return Batch(tuple(pairs), self._sides, prepared, tuple(spans))

    def _example(self, pair: PreferencePair, side: Side) -> Example:
        if side != "weakened":
            return pair.example(pair.chosen if side == "chosen" else pair.rejected)
        if self._contrast is None:
            raise VlmendError("the objective reads answers on weakened pictures, and it is not said how to weaken them")
        pictures = pair.example(pair.chosen).pictures
        if not pictures:
            raise VlmendError(f"pair '{pair.id}' has no picture to weaken, which the objective asks for")
        draw = random.Random(f"{self._seed}/{pair.id}")
        return Example(pair.question, tuple(self._contrast(open_picture(one), draw) for one in pictures), pair.chosen)

    def _labels(self, pair: PreferencePair, side: Side, target_N: Tensor) -> Tensor:
        """Which tokens of an answer are in its labelled spans; the one that ends it is in none."""
        if not pair.labelled:
            raise VlmendError(f"pair '{pair.id}' has no labelled spans, which the objective weighs")
        text = pair.rejected if side == "rejected" else pair.chosen
        spans = pair.rejected_spans if side == "rejected" else pair.chosen_spans
        return span_labels(self._offsets(text, target_N), _stripped(text, spans))

    def _offsets(self, text: str, target_N: Tensor) -> list[tuple[int, int]]:
        """The characters of the answer that each token stands for: those by which it makes the text longer."""
        plain = text.strip()
        decode = self._vlm.tokenizer.decode
        ends = [len(decode(target_N[: at + 1], skip_special_tokens=True).lstrip()) for at in range(len(target_N))]
        bounds = [min(end, len(plain)) for end in (0, *ends)]
        return list(pairwise(bounds))


def _stripped(text: str, spans: Sequence[Span]) -> list[Span]:
    """Spans of a text in the same without white space around it."""
    cut = len(text) - len(text.lstrip())
    return [(start - cut, end - cut) for start, end in spans]


def token_log_probs(output: RunOutput) -> list[Tensor]:
    """Of every row the log-probabilities of its target's tokens, [N], in nats."""
    return [target_log_probs(row.logits_NV, row.target_N) for row in output.rows]


def fitting(
    vlm: VLM,
    pairs: Sequence[PreferencePair],
    longest: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    *,
    what: Objective | None = None,
) -> tuple[list[PreferencePair], list[SkippedPair]]:
    """The pairs that the model can be trained on, and those that it cannot: an empty or twice the same answer, one with
    what stands for a picture in it, a picture that cannot be read, more tokens than there may be (nothing is ever cut
    off), or none of what the objective reads.

    Args:
        vlm: the model.
        pairs: in their order.
        longest: most tokens of a prompt with its answer; the model's own limit by default.
        progress: called with (looked at, all) pairs.
        what: the objective; ``None`` for one that reads nothing but the two answers.
    """
    limit = longest or vlm.longest
    kept: list[PreferencePair] = []
    skipped: list[SkippedPair] = []
    for start in range(0, len(pairs), _AT_ONCE):
        with vlm.sharing():
            for at, pair in enumerate(pairs[start : start + _AT_ONCE], start + 1):
                reason = _unread(pair, what) or _unfit(vlm, pair, limit)
                if reason is None:
                    kept.append(pair)
                else:
                    skipped.append(SkippedPair(pair.id, reason))
                progress(at, len(pairs))
    return kept, skipped


def _unread(pair: PreferencePair, what: Objective | None) -> str | None:
    """Which part of a pair the objective reads and does not find."""
    if what is not None and "weakened" in what.sides and not pair.pictures:
        return "it has no picture to weaken, which the objective asks for"
    if what is not None and what.needs_spans and not pair.labelled:
        return "it has no labelled spans, which the objective weighs"
    return None


def _unfit(vlm: VLM, pair: PreferencePair, limit: int | None) -> str | None:
    for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not answer.strip():
            return f"its {name} answer is empty"
    if pair.chosen.strip() == pair.rejected.strip():
        return "its answers are the same"
    try:
        rows = vlm.prepare([pair.example(pair.chosen), pair.example(pair.rejected)]).rows
    except (PromptError, OSError) as error:
        return " ".join(str(error).split())
    for name, row in zip(("chosen", "rejected"), rows, strict=True):
        if (problem := unsayable(vlm, row)) is not None:
            return f"its {name} answer {problem}"
    length = max(len(row.ids_T) + len(row.target_N) for row in rows)
    return f"it takes {length} tokens, more than {limit}" if limit is not None and length > limit else None


def unsayable(vlm: VLM, row: Row) -> str | None:
    """What is wrong with a row's answer, so that the model cannot be given it; ``None`` if nothing is."""
    if not row.answer_length:
        return "has no token"
    if bool((row.target_N == vlm.parts.image_token).any()):
        return "has what stands for a picture in it"  # the model would look for one there
    return None


def preflight(vlm: VLM, batch: Batch) -> None:
    """Make sure that what is trained on is what is meant: every answer whole and closed by an end token, and as many
    visual tokens as the picture has features (or, where layers look at pictures, as many marks as there are pictures).

    Raises:
        VlmendError: names the row and what is wrong.
    """
    rows = batch.prepared.rows
    width = max(len(row.ids_T) + len(row.target_N) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for at, row in enumerate(rows):
        ids_BT[at, : len(row.ids_T) + len(row.target_N)] = torch.cat([row.ids_T, row.target_N])
    starts_B = torch.tensor([len(row.ids_T) for row in rows])
    lengths_B = torch.tensor([len(row.target_N) for row in rows])
    check_answers(ids_BT, answer_mask(starts_B, lengths_B, width), vlm.ends)
    if not vlm.parts.in_stream:
        for at, row in enumerate(rows):
            marks = int((row.ids_T == vlm.parts.image_token).sum())
            if marks != len(row.pictures):
                raise VlmendError(f"row {at} has {marks} marks for {len(row.pictures)} pictures")
        return
    for at, (row, states) in enumerate(zip(rows, vlm.features(batch.prepared), strict=True)):
        visual = int(row.visual_T.sum()) + int((row.target_N == vlm.parts.image_token).sum())
        features = 0 if states is None else len(states)
        if visual != features:
            raise VlmendError(f"row {at} has {visual} visual tokens for {features} features of its picture")
