"""What lies above a layer, run again and again on rows whose states behind that layer are kept.

Training something that acts on a layer's output needs the layers below once. Unlike `resume.py`, which keeps a batch as
it was called, rows are kept one by one and go into any batch: the model is run as ever, its lower layers give what was
kept, and it makes masks, positions and rotary embeddings for the batch itself.

Where a picture's tokens come first, what the layers make of them does not depend on the words behind: their states are
kept once for each picture (of 576 tokens of 600), and only the words' for each row. Where they do depend on the words
(PaliGemma), that is noticed by comparison, and a row keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlmend.errors import PartsError
from vlmend.models.attention import AttentionCall, attention_modules
from vlmend.models.batching import by_beginning, of_like_length, worth_sharing
from vlmend.models.caches import Beginning
from vlmend.models.ending import ending
from vlmend.models.intervene import Plan, StateOperation, acting, reads_question
from vlmend.models.prefix import stump
from vlmend.models.prepared import Prepared, Row
from vlmend.models.starting import starting, states_behind
from vlmend.models.trace import capture
from vlmend.models.vlm import VLM

__all__ = ["Above", "states_of"]

_SAME, _COARSELY_SAME = 1e-4, 2e-2  # of their norm: in float32, and in shorter types


@dataclass(frozen=True, eq=False)
class _Kept:
    """One row's states: those of its visual tokens, perhaps shared with other rows, and of all others."""

    row: Row
    visual_SD: Tensor
    words_KD: Tensor


class Above:
    """Rows by what a layer made of them.

    Args:
        vlm: the model; its weights must stay as they are.
        layer: index of the layer behind which states are kept.

    Raises:
        PartsError: nothing that can still look at a picture's tokens lies above the layer, or there are none.
    """

    def __init__(self, vlm: VLM, layer: int) -> None:
        vlm.parts.need_visual_tokens()
        if layer >= len(vlm.parts.layers) - 1:
            raise PartsError(
                f"nothing reads a picture's tokens above layer {layer}, which is the last: choose a lower one"
            )
        self._vlm = vlm
        self.layer = layer
        self._kept: dict[int, _Kept] = {}
        self._pictures: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._blank = Prepared((), {})
        self._ends_alone: bool | None = None  # whether the last layer can be run for the last positions; not known yet
        self._begins_once: bool | None = None  # whether a common beginning can be run once; not known yet
        self._goes_on: bool | None = None  # whether it can above the layer; not known yet

    @torch.no_grad()
    def add(self, prepared: Prepared) -> None:
        """Run rows up to the layer, and keep what it made of them; their pictures are not needed any more."""
        fresh = {id(row): index for index, row in enumerate(prepared.rows) if id(row) not in self._kept}
        rows = {index: prepared.rows[index] for index in fresh.values()}
        shared = [index for group in worth_sharing(rows) for index in group] if self._begins_once is not False else []
        for some in by_beginning({index: rows[index] for index in shared}, self._vlm.batch_rows):
            part = prepared.take(some)
            found = self._vlm.states_from_beginnings(part, [self.layer])
            if self._begins_once is None:  # the first time it is compared with a whole run, of one that shares
                self._begins_once = found is not None and _same(self._whole(part.take([-1]))[0], found[0][-1])
            if found is None or not self._begins_once:
                break
            for index, row, states_TD in zip(some, part.rows, found[0], strict=True):
                self._keep(row, states_TD)
                del rows[index]
        for some in of_like_length(rows, self._vlm.batch_rows):
            part = prepared.take(some)
            for row, states_TD in zip(part.rows, self._whole(part), strict=True):
                self._keep(row, states_TD)
        blank = self._vlm.blank(prepared)
        self._blank.pictures.update(blank.pictures)
        self._blank.features.encoded.update(blank.features.encoded)
        self._blank.features.state = blank.features.state

    def _whole(self, part: Prepared) -> list[Tensor]:
        """The states of rows that are run whole, in one batch."""
        (states_BTD,) = states_behind(self._vlm.parts, [self.layer], partial(self._vlm.logits, part, 1))
        lengths = [len(row.ids_T) + len(row.target_N) for row in part.rows]
        return [states_TD[-length:] for states_TD, length in zip(states_BTD, lengths, strict=True)]

    def _keep(self, row: Row, states_TD: Tensor) -> None:
        visual_T = _visual(row).to(states_TD.device)
        visual_SD, words_KD = states_TD[visual_T].clone(), states_TD[~visual_T].clone()
        if row.picture is not None:
            beginning = row.ids_T[: int(row.visual_T.nonzero().max()) + 1]
            shared_SD = self._pictures.setdefault((row.picture, tuple(beginning.tolist())), visual_SD)
            if _same(shared_SD, visual_SD):
                visual_SD = shared_SD
        self._kept[id(row)] = _Kept(row, visual_SD, words_KD)

    @property
    def size(self) -> int:
        """How many numbers are kept."""
        visual = {id(kept.visual_SD): kept.visual_SD.numel() for kept in self._kept.values()}
        return sum(visual.values()) + sum(kept.words_KD.numel() for kept in self._kept.values())

    def states(self, row: Row) -> Tensor:
        """The kept states of a row, prompt and target: [T, D]."""
        kept = self._kept[id(row)]
        visual_T = _visual(row).to(kept.words_KD.device)
        states_TD = kept.words_KD.new_empty((len(visual_T), kept.words_KD.shape[-1]))
        states_TD[visual_T] = kept.visual_SD
        states_TD[~visual_T] = kept.words_KD
        return states_TD

    def parted(self, row: Row) -> tuple[Tensor, Tensor]:
        """The kept states of a row's words, prompt and target, and of its visual tokens; not to be changed."""
        kept = self._kept[id(row)]
        return kept.words_KD, kept.visual_SD

    def alike(self, one: Row, other: Row) -> bool:
        """Whether the states of two rows' visual tokens are the same."""
        return self._kept[id(one)].visual_SD is self._kept[id(other)].visual_SD

    def run(self, rows: Sequence[Row], ops: Sequence[Sequence[StateOperation]]) -> list[Tensor]:
        """Every row's logits at the positions that predict its target, [N, vocabulary].

        What the same operations make of a picture is run once for all rows about it.

        Args:
            rows: some that were added, with answers.
            ops: what acts on each row's states, at this layer or above it; gradients reach what is in them. Pictures
                are run once where it is whatever the words behind.
        """
        plans = [Plan(states=tuple(some)) for some in ops]
        found: dict[int, Tensor] = {}
        alike = {index: row for index, row in enumerate(rows) if not any(map(reads_question, ops[index]))}
        if self._goes_on is not False:
            for some in by_beginning(alike, len(rows)):
                made = self._from_beginnings([rows[index] for index in some], [plans[index] for index in some])
                if made is not None and self._goes_on is None:  # the first time it is compared with a whole run
                    with torch.no_grad():
                        whole_NV = self._in_batch([rows[some[0]]], [plans[some[0]]], ends_alone=False)[0]
                    self._goes_on = _same(whole_NV, made[0].detach())
                if made is None or not self._goes_on:
                    break
                found.update(zip(some, made, strict=True))
        rest = [index for index in range(len(rows)) if index not in found]
        if rest:
            made = self._rows([rows[index] for index in rest], [plans[index] for index in rest])
            found.update(zip(rest, made, strict=True))
        return [found[index].float() for index in range(len(rows))]

    def _from_beginnings(self, rows: Sequence[Row], plans: Sequence[Plan]) -> list[Tensor] | None:
        """The logits of rows whose pictures' states are run once for all that are changed alike; ``None`` if the model
        cannot be run so."""
        call = self._vlm.cut(replace(self._blank, rows=tuple(rows)))
        if call is None or not call.count:
            return None
        parts, states = self._vlm.parts, [self.states(row) for row in rows]
        names = [(id(self._kept[id(row)].visual_SD), *map(id, p.states)) for row, p in zip(rows, plans, strict=True)]
        begun: dict[Any, Beginning] = {}
        for some in call.at_once([names.index(name) for name in dict.fromkeys(names)]):
            stumps = [stump(rows[index], call.count) for index in some]
            with ExitStack() as stack:
                stack.enter_context(acting(parts, stumps, [plans[index] for index in some], with_targets=False))
                first_BTD = torch.stack([states[index][: call.count] for index in some])
                stack.enter_context(starting(parts, self.layer + 1, first_BTD))
                begun.update(zip((names[index] for index in some), call.begin(some), strict=True))
        rest_BTD = pad_sequence([states_TD[call.count :] for states_TD in states], batch_first=True)
        with starting(parts, self.layer + 1, rest_BTD), ending(parts, call.keep):
            return call.predicting(call.logits([begun[name] for name in names]))

    def _rows(self, rows: Sequence[Row], plans: Sequence[Plan]) -> list[Tensor]:
        """The logits of rows in one batch, the last layer run for the last positions alone if that gives the same."""
        if self._ends_alone is None:  # the first time it is compared with a whole run
            with torch.no_grad():
                whole, ended = (self._in_batch(rows[:1], plans[:1], ends_alone=alone)[0] for alone in (False, True))
            self._ends_alone = _same(whole, ended)
        return self._in_batch(rows, plans, ends_alone=self._ends_alone)

    def _in_batch(self, rows: Sequence[Row], plans: Sequence[Plan], *, ends_alone: bool) -> list[Tensor]:
        count = max(len(row.target_N) for row in rows) + 1
        with ExitStack() as stack:
            stack.enter_context(self._starting(rows))
            stack.enter_context(acting(self._vlm.parts, rows, plans, with_targets=True))
            if ends_alone:
                stack.enter_context(ending(self._vlm.parts, count))
            logits_BKV = self._logits(rows, count)
        return [
            logits_KV[count - 1 - len(row.target_N) : count - 1]
            for row, logits_KV in zip(rows, logits_BKV, strict=True)
        ]

    @torch.no_grad()
    def attention(self, row: Row, layers: Sequence[int]) -> dict[int, AttentionCall]:
        """How the attention of some layers above was called for a row.

        Raises:
            PartsError: a layer has no attention of a known name.
        """
        modules = {str(layer): module for layer, module in attention_modules(self._vlm.parts, tuple(layers)).items()}
        with self._starting([row]), capture(modules) as calls:
            self._logits([row], 1)
        return {int(call.name): AttentionCall.of(self._vlm.parts, int(call.name), call) for call in calls}

    @torch.no_grad()
    def behind(self, row: Row, layer: int) -> Tensor:
        """A row's states behind a layer that is not lower, prompt and target: [T, D]."""
        if layer == self.layer:
            return self.states(row)
        with self._starting([row]), capture({"layer": self._vlm.parts.layers[layer]}) as calls:
            self._logits([row], 1)
        return calls[0].output[0]

    def _logits(self, rows: Sequence[Row], keep: int) -> Tensor:
        return self._vlm.logits(replace(self._blank, rows=tuple(rows)), keep)

    def _starting(self, rows: Sequence[Row]) -> AbstractContextManager[None]:
        """A context in which the lower layers give the kept states."""
        states = [self.states(row) for row in rows]
        return starting(self._vlm.parts, self.layer + 1, pad_sequence(states, batch_first=True, padding_side="left"))


def states_of(vlm: VLM, prepared: Prepared, layers: Sequence[int]) -> list[Tensor]:
    """What some layers make of a row with its answer, of each [1, T, D], edits in force at work; none if it never gets
    to them. What is known of its beginning is not run again."""
    if vlm.goes_on_cheaply and not vlm.active_edits:
        found = vlm.states_from_beginnings(prepared, layers)
        if found is not None:
            return [states_TD[None] for (states_TD,) in found]
    return states_behind(vlm.parts, layers, partial(vlm.run, prepared))


def _visual(row: Row) -> Tensor:
    """Which of a row's tokens, prompt and target, are visual."""
    return torch.cat([row.visual_T, row.visual_T.new_zeros(len(row.target_N))])


def _same(one_SD: Tensor, other_SD: Tensor) -> bool:
    tolerance = _SAME if one_SD.dtype == torch.float32 else _COARSELY_SAME
    return one_SD is other_SD or float((one_SD - other_SD).norm()) <= tolerance * float(one_SD.norm())
