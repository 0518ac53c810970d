"""What a model does at a row, before an edit and with it: its own answer, and what it holds likely where the known one
stands.

With an edit the answers are seldom written token by token. Mostly they are the known answer or what was said before,
and one teacher-forced run, which starts where the edit acts, tells whether greedy decoding would give them: it would
if every token of the guess is the likeliest after those before it, up to one that ends the answer. Only what neither
guess fits is decoded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, inf, log_softmax

from vlmend.edits.edit import Edit
from vlmend.evaluation.record import TopIds
from vlmend.models.prepared import Prepared, Row
from vlmend.models.vlm import VLM, Reply, RowOutput

__all__ = ["Observed", "Watch"]

_TOP = 10


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What a model does at one row.

    Attributes:
        text: its own answer; ``None`` where it was not asked for one.
        top: at each of the known answer's positions the ids of the ten likeliest tokens.
        log_probs_NV: there, all tokens' log-probabilities; ``None`` where nobody asked for them.
    """

    text: str | None
    top: TopIds
    log_probs_NV: Tensor | None = None

    @property
    def likeliest(self) -> tuple[int, ...]:
        """The likeliest token at each of the answer's positions."""
        return tuple(ids[0] for ids in self.top)


class Watch:
    """Some rows, observed as the model is, and then with one edit after another.

    Args:
        vlm: the model.
        prepared: the rows; first the one that was asked for.
        replies: what the model answers to them; ``None`` to watch no answers.
        distributions: the rows whose log-probabilities are kept too.
        stages: where the edits begin to act (`VLM.first_stage`): what comes before is run once.
        max_new_tokens: bound on the answers.
    """

    def __init__(
        self,
        vlm: VLM,
        prepared: Prepared,
        replies: Sequence[Reply] | None,
        *,
        distributions: Collection[int] = (),
        stages: Collection[int] = (),
        max_new_tokens: int = 32,
    ) -> None:
        self._vlm = vlm
        self._count = len(prepared)
        self._distributions = distributions
        self._max_new_tokens = max_new_tokens
        self._answers = replies is not None
        again = {index: _saying(prepared.rows[index], reply) for index, reply in enumerate(replies or ())}
        said = {index: row for index, row in again.items() if row is not None}
        self._said = dict(zip(said, range(self._count, self._count + len(said)), strict=True))
        self._prepared = replace(prepared, rows=(*prepared.rows, *said.values()))
        forced = self._forced(keep=stages)
        self.before = self._observed(forced, [reply.text for reply in replies] if replies else [None] * self._count)

    def after(self, edit: Edit) -> list[Observed]:
        """What the model does at every row with an edit in force."""
        forced = self._forced(edit, first=self._vlm.first_stage(edit.ops))
        texts: list[str | None] = [None] * self._count
        if self._answers:
            texts = [self._confirmed(forced, index) for index in range(self._count)]
            unknown = [index for index, text in enumerate(texts) if text is None]
            some = self._prepared.take(unknown)
            answers = self._vlm.generate(some, edit, max_new_tokens=self._max_new_tokens)
            for index, answer in zip(unknown, answers, strict=True):
                texts[index] = answer
        return self._observed(forced, texts)

    def _forced(self, *given: Any, **named: Any) -> list[RowOutput]:
        """A teacher-forced run; of the first row by itself, as an editor that was fitted to it has run it."""
        parts = [self._prepared.take(some) for some in ([0], range(1, len(self._prepared)))]
        return [row for part in parts for row in self._vlm.run(part, *given, **named).rows]

    def _confirmed(self, forced: Sequence[RowOutput], index: int) -> str | None:
        """The row's answer, if it is the known one or that of before."""
        places = [index, self._said[index]] if index in self._said else [index]
        answers = (_confirmed(self._vlm, forced[place], self._max_new_tokens) for place in places)
        return next((answer for answer in answers if answer is not None), None)

    def _observed(self, forced: Sequence[RowOutput], texts: Sequence[str | None]) -> list[Observed]:
        seen: list[Observed] = []
        for index, (row, text) in enumerate(zip(forced, texts, strict=False)):
            logits_NV = row.logits_NV[: row.answer_length]
            top = logits_NV.topk(min(_TOP, logits_NV.shape[-1]), dim=-1).indices.tolist()
            log_probs = log_softmax(logits_NV, -1).cpu() if index in self._distributions else None
            seen.append(Observed(text, tuple(tuple(ids) for ids in top), log_probs))
        return seen


def _saying(row: Row, reply: Reply) -> Row | None:
    """The row with what was said as its answer; ``None`` if it begins so anyway, or nothing was said."""
    known = row.target_N[: len(reply.tokens)].tolist()
    if not reply.tokens or known == list(reply.tokens):
        return None
    return replace(row, target_N=row.ids_T.new_tensor(reply.tokens), answer_length=len(reply.tokens))


def _confirmed(vlm: VLM, row: RowOutput, limit: int) -> str | None:
    """The answer that greedy decoding gives, if the row's target leads it to its end."""
    if not len(row.target_N):
        return None
    logits_NV = row.logits_NV.clone()
    logits_NV[:, vlm.parts.image_token] = -inf  # as in generation
    guess: list[int] = row.target_N.tolist()
    for count, (likeliest, token) in enumerate(zip(logits_NV.argmax(-1).tolist(), guess, strict=True)):
        if count == limit or likeliest in vlm.ends:
            return vlm.text_of(guess[:count])
        if likeliest != token:
            return None
    return vlm.text_of(guess) if len(guess) == limit else None
