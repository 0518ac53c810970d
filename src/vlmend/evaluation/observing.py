"""What a model does at a row, before an edit and with it: its own answer, and what it holds likely where the known one
stands.

Answers are seldom written token by token. Mostly they are the known answer, what the model said when the case was
made, or what it said before the edit, and a teacher-forced run, which is made anyway, tells whether greedy decoding
would give one of them (`models/greedy.py`). Where they part, another guess is made; what a few guesses do not settle is
decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, log_softmax

from vlmend.edits.edit import Edit
from vlmend.evaluation.record import TopIds
from vlmend.models.outputs import Reply, RowOutput
from vlmend.models.prepared import Prepared, Row
from vlmend.models.vlm import VLM

__all__ = ["Observed", "Watch"]

_TOP = 10
_GUESSES = 5  # rounds of guessing, each a token longer, before an answer is decoded


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
        prepared: the rows.
        guesses: for each what the model may answer, beside the known answer; ``None`` to watch no answers.
        watched: how many of the rows are observed; the others are answered only.
        unasked: the rows that are not run as the model is, but with edits only.
        distributions: the rows whose log-probabilities are kept too.
        max_new_tokens: bound on the answers.

    Attributes:
        before: what the model does at the rows that are observed; ``None`` for one that is not asked.
        replies: its answers to those that are not observed; ``None`` if they are not watched.
    """

    def __init__(
        self,
        vlm: VLM,
        prepared: Prepared,
        guesses: Sequence[Sequence[str]] | None,
        *,
        watched: int,
        unasked: Collection[int] = (),
        distributions: Collection[int] = (),
        max_new_tokens: int = 32,
    ) -> None:
        self._vlm = vlm
        self._watched = prepared.take(range(watched))
        self._distributions = distributions
        self._limit = max_new_tokens
        self._answers = guesses is not None
        kept = {"keep": {vlm.last_shared_stage}}
        tries = [
            [vlm.following(row, text) for text in some]
            for row, some in zip(prepared.rows, guesses or [()] * len(prepared), strict=True)
        ]
        asked = [index for index in range(len(prepared)) if index not in unasked]
        heard = dict(
            zip(asked, self._heard(prepared.take(asked), [tries[index] for index in asked], None, kept), strict=True)
        )
        said = [heard[index].reply for index in range(watched, len(prepared))]
        self.replies = [reply for reply in said if reply is not None] if self._answers else None
        self._tries = tries
        for index, one in heard.items():
            self._tries[index] = [] if one.guess is None else [one.guess]
        seen = [index for index in asked if index < watched]
        found = dict(zip(seen, self._observed([heard[index] for index in seen], seen), strict=True))
        self.before: list[Observed | None] = [found.get(index) for index in range(watched)]

    def after(self, edit: Edit) -> list[Observed]:
        """What the model does at every row with an edit in force."""
        touched = [
            index
            for index, (row, before) in enumerate(zip(self._watched.rows, self.before, strict=True))
            if before is None or self._vlm.acts_on(edit, row)
        ]
        shared = self._vlm.last_shared_stage
        kept = {"first": shared} if self._vlm.first_stage(edit.ops) >= shared else {"keep_beginnings": True}
        tries = [self._tries[index] for index in touched]
        heard = self._heard(self._watched.take(touched), tries, edit, kept)
        found = dict(zip(touched, self._observed(heard, touched), strict=True))
        return [found[index] if one is None else found.get(index, one) for index, one in enumerate(self.before)]

    def _heard(
        self, prepared: Prepared, tries: Sequence[Sequence[Row]], edit: Edit | None, kept: Mapping[str, Any]
    ) -> list[_Heard]:
        """What the model makes of every row's known answer, and what it answers; ``tries`` are rows with guesses."""
        rows = list({id(row): row for row in prepared.rows}.values())
        guesses = [(row, row) for row in rows]
        guesses += [(row, one) for row, some in zip(prepared.rows, tries, strict=True) for one in some]

        def run(some: Sequence[tuple[Row, Row]]) -> Sequence[RowOutput]:
            return self._run(replace(prepared, rows=tuple(guess for _, guess in some)), edit, kept)

        outputs = run(guesses)
        known = {id(row): output for row, output in zip(rows, outputs, strict=False)}
        said: dict[int, tuple[Reply, Row]] = {}
        if self._answers:
            said = self._guessed(guesses, outputs, run)
            unknown = tuple(row for row in rows if id(row) not in said)
            some = replace(prepared, rows=unknown)
            decoded = self._vlm.replies(some, edit, max_new_tokens=self._limit) if unknown else []
            for row, reply in zip(unknown, decoded, strict=True):
                said[id(row)] = (reply, self._vlm.following(row, reply.tokens))
        heard: list[_Heard] = []
        for row in prepared.rows:
            reply, guess = said.get(id(row), (None, row))
            heard.append(_Heard(known[id(row)], reply, None if guess is row else guess))
        return heard

    def _guessed(
        self,
        guesses: Sequence[tuple[Row, Row]],
        outputs: Sequence[RowOutput],
        run: Callable[[Sequence[tuple[Row, Row]]], Sequence[RowOutput]],
    ) -> dict[int, tuple[Reply, Row]]:
        """The answers to rows that guesses are, by the row's identity, and the guess; ``guesses`` are pairs of both.

        Where a guess is not the answer, the next one is how the answer begins, and an end.
        """
        said: dict[int, tuple[Reply, Row]] = {}
        for again in range(_GUESSES + 1):
            begun: dict[int, tuple[Reply, Row]] = {}
            replies = self._vlm.followed(outputs, max_new_tokens=self._limit)
            for (row, guess), reply in zip(guesses, replies, strict=True):
                if reply is not None and reply.ended:
                    said.setdefault(id(row), (reply, guess))
                elif reply is not None and (id(row) not in begun or len(reply.tokens) >= len(begun[id(row)][0].tokens)):
                    begun[id(row)] = (reply, row)
            guesses = [
                (row, self._vlm.following(row, (*reply.tokens, self._vlm.ends[0])))
                for reply, row in begun.values()
                if id(row) not in said and row.answer_length - len(reply.tokens) <= _GUESSES - again
            ]
            if again == _GUESSES or not guesses or not self._vlm.goes_on_cheaply:
                break
            outputs = run(guesses)
        return said

    def _run(self, prepared: Prepared, edit: Edit | None, kept: Mapping[str, Any]) -> Sequence[RowOutput]:
        return self._vlm.run(prepared, edit, **kept).rows

    def _observed(self, heard: Sequence[_Heard], indices: Sequence[int]) -> list[Observed]:
        seen: list[Observed] = []
        for index, one in zip(indices, heard, strict=True):
            logits_NV = one.output.logits_NV[: one.output.answer_length]
            top = logits_NV.topk(min(_TOP, logits_NV.shape[-1]), dim=-1).indices.tolist()
            log_probs = log_softmax(logits_NV, -1).cpu() if index in self._distributions else None
            text = None if one.reply is None else one.reply.text
            seen.append(Observed(text, tuple(tuple(ids) for ids in top), log_probs))
        return seen


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """What a model makes of a row's known answer, what it answers, and the row with that answer if it is another."""

    output: RowOutput
    reply: Reply | None
    guess: Row | None
