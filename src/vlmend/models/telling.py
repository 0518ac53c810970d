"""Rows with texts that operations put before their questions, or in front of all.

A row is prepared again as the example that has the text written into its question, and keeps its own target; it is
another row, so that nothing kept of the row without the text is taken for it. Where the encoder does not read the
question, its picture is known and not encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.models.feed import Feeder
from vlmend.models.intervene import Plan
from vlmend.models.outputs import Question
from vlmend.models.parts import Parts
from vlmend.models.prepared import Prepared, Preparer, Row, Told
from vlmend.models.prompts import MARKER, put_before

__all__ = ["Teller"]


class Teller:
    """Puts texts before questions, for one model."""

    def __init__(self, parts: Parts, tokenizer: Any, preparer: Preparer, feeder: Feeder) -> None:
        self._parts = parts
        self._tokenizer = tokenizer
        self._preparer = preparer
        self._feeder = feeder

    def told(self, prepared: Prepared, plans: Sequence[Plan]) -> Prepared:
        """The rows with the texts that their plans put before their questions, and no other; the rows themselves where
        that is what they have.

        Raises:
            PromptError: a text cannot stand in this model's prompt.
        """
        rows = tuple(
            self._with(row, self._texts(row, plan, prepared), prepared.told)
            for row, plan in zip(prepared.rows, plans, strict=True)
        )
        if all(map(_same, rows, prepared.rows)):
            return prepared
        return replace(prepared, rows=rows, pictures=prepared.told.pictures | prepared.pictures)

    def _texts(self, row: Row, plan: Plan, prepared: Prepared) -> tuple[str, str]:
        """What stands in front of all, and before the question."""
        if plan.answer is not None:  # the model is not asked
            return row.opening, row.before
        told = [(op.lead, *op.told(partial(self.key, row, prepared))) for op in plan.prompts]
        leads = [lead for lead, _, text in told if text and lead]
        return "".join(opening for _, opening, _ in told), "".join([text for *_, text in told] + leads[-1:])

    def _with(self, row: Row, texts: tuple[str, str], known: Told) -> Row:
        if (row.opening, row.before) == texts:
            return row
        if (id(row), texts) not in known.rows:
            plain = row.plain or row
            made = replace(self._prompt(plain, texts, known), plain=plain) if any(texts) else plain
            made = replace(made, target_N=row.target_N, answer_length=row.answer_length)
            known.rows[id(row), texts] = (row, made)
        return known.rows[id(row), texts][1]

    def _prompt(self, plain: Row, texts: tuple[str, str], known: Told) -> Row:
        """A row with the texts, whatever its target; prepared once for all rows that are the same example."""
        asked = plain.asked
        assert asked is not None, "rows are made of examples"
        if (id(asked), texts) not in known.prompts:
            opening, text = texts
            question = self._preparer.placed(asked.question, len(plain.pictures)) if opening else asked.question
            question = opening + put_before(text, question)
            row, inputs = self._preparer.row(Question(question, asked.image))
            row = replace(row, question=plain.question, asked=asked, before=text, opening=opening)
            row = replace(row, opened=self._preparer.opened(row, opening) if opening else 0)
            known.prompts[id(asked), texts] = (asked, row)
            if row.picture is not None:
                known.pictures.setdefault(row.picture, inputs)
        return known.prompts[id(asked), texts][1]

    def key(self, row: Row, prepared: Prepared) -> Tensor:
        """What a row is compared by, in float32 on the CPU, [2, D]: the mean embedding of its question's tokens and
        the mean of its pictures' visual tokens, each of length 1; zeros for what it has not.

        It is that of the row without a text, and found once, from its pictures as they are then: later runs may show
        the decoder something else.
        """
        plain = row.plain or row
        place = (id(plain), self._feeder.state)
        if place not in prepared.told.keys:
            prepared.told.keys[place] = (plain, self._key(plain, prepared))
        return prepared.told.keys[place][1]

    @torch.no_grad()
    def _key(self, row: Row, prepared: Prepared) -> Tensor:
        words = self._tokenizer.encode(row.question.replace(MARKER, " "), add_special_tokens=False)
        ids_1T = torch.tensor([words], dtype=torch.long, device=next(self._parts.embed.parameters()).device)
        words_D = self._parts.embed(ids_1T)[0].float().sum(0).cpu()
        seen_D = torch.zeros_like(words_D)
        if row.picture is not None:
            seen_D = self._feeder.visual_states(row.picture, prepared).float().sum(0).cpu()
        return functional.normalize(torch.stack([words_D, seen_D]), dim=-1)


def _same(one: Row, other: Row) -> bool:
    return one is other
