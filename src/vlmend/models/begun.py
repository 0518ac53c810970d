"""Batches whose rows go on from beginnings that are run once, and from what they were behind the last attention.

Behind the last layer's attention no position looks at another: there every row is kept by itself, only where its
target is predicted, and any of them go on together. Whether a model can be run so at all is found out the first time,
when the outputs are compared with those of whole rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vlmend.models.batching import by_beginning, of_like_length, worth_sharing
from vlmend.models.beginnings import Known, Openings, Starts, named
from vlmend.models.caches import Beginning
from vlmend.models.ending import ending
from vlmend.models.feed import Feeder
from vlmend.models.intervene import NeuronOperation, Plan, acting, reads_question
from vlmend.models.parts import Parts
from vlmend.models.prefix import Cut, beginning, cut, going_on
from vlmend.models.prepared import Prepared, Preparer, Row
from vlmend.models.resume import Below, joined, record
from vlmend.models.starting import states_behind
from vlmend.models.trace import capture, hooked, watched
from vlmend.models.weights import Weights

__all__ = ["Begun"]

_ROUNDING, _COARSE_ROUNDING = 1e-3, 5e-2  # of the largest logit: in float32, and in shorter types

Whole = Callable[[Prepared, Sequence[Plan]], Sequence[Tensor]]
"""Runs rows whole; every row's logits where its target is predicted."""


class Begun:
    """Runs rows of one model from their beginnings.

    Attributes:
        holds: whether the model can be run so; ``None`` as long as that is not known.
    """

    def __init__(self, parts: Parts, weights: Weights, preparer: Preparer, feeder: Feeder) -> None:
        self._parts = parts
        self._weights = weights
        self._preparer = preparer
        self._feeder = feeder
        self.holds: bool | None = None if parts.in_stream else False  # what layers look at stands beside the rows
        self._starts: bool | None = None  # whether it can from what lower layers gave; not known yet
        self._lower: bool | None = None  # whether rows can go on above what their lower layers gave; not known yet
        self._ends_alone: bool | None = None  # whether the last layer can be cut behind its attention; not known yet
        self._openings = Openings()
        self._generates: bool | None = self.holds  # whether generation can go on from an opening; not known yet

    @property
    def alone(self) -> int:
        """The stage behind the last layer's attention, from which on no position looks at another."""
        return 2 * len(self._parts.layers) - 1

    def run(
        self,
        prepared: Prepared,
        plans: Sequence[Plan],
        indices: Sequence[int],
        stages: Collection[int],
        most: int,
        whole: Whole,
        *,
        lasting: bool,
        settled: bool,
    ) -> dict[int, Tensor]:
        """The logits of those rows that can be run so.

        Args:
            prepared: rows; the beginnings of those that are kept are kept with them.
            plans: what acts on each.
            indices: which of them to run.
            stages: from `alone` on, where later runs will begin, or this one if it has been run before; with none,
                only rows whose beginning is known or that share one are run here.
            most: how many rows are run at once.
            whole: to compare with, the first time.
            lasting: whether what acts stays as it is, so that its beginnings are kept too.
            settled: whether it is at least not being made, so that openings are run once for all calls.
        """
        if self.holds is False or any(stage < self.alone for stage in stages):
            return {}
        rows = {index: prepared.rows[index] for index in indices}
        found = self._from_stage(prepared, rows, plans, stages, most) if stages else {}
        if hooked(self._parts.decoder):  # hooks are shown whole rows
            return found
        rest = {index: row for index, row in rows.items() if index not in found and _fits(row, plans[index], stages)}
        lasting = bool(stages) or lasting  # what comes before a stage has no part in what is being made
        opened = any(row.opened for row in rest.values()) and settled and not torch.is_grad_enabled()
        openings = (self._openings, self._state()) if opened else None
        known = Known(self._parts, prepared.begun, self._state() if lasting else None, openings)
        for group in [list(rest)] if stages else self._worth_it(rest, plans, known, lasting=lasting, opened=opened):
            for some in by_beginning({index: rest[index] for index in group}, most):
                part, acts = prepared.take(some), [plans[index] for index in some]
                logits = self._checked(part, acts, stages, known, whole)
                if logits is None:
                    return found
                found.update(zip(some, logits, strict=True))
        known.keep()
        return found

    def generate(self, part: Prepared, plans: Sequence[Plan], run: Callable[[Sequence[Plan]], Tensor]) -> Tensor:
        """What ``run`` generates with what acts on rows; they go on from their openings where that can be.

        Args:
            part: rows; to go on from openings they must be equally long, and so must their openings.
            plans: what acts on each.
            run: generates, and lets act what it is given.
        """
        openings = self._openings_of(part, plans) if self._generates is not False else None
        if openings is None:
            return run(plans)
        if self._generates is not None:
            with going_on(self._parts, part.rows, openings):
                return run(plans)
        new_BN, whole_BV = self._prompts_read(run, plans)  # the first time it is compared
        with going_on(self._parts, part.rows, openings):
            self._generates = _alike(self._prompts_read(run, plans)[1], whole_BV)
        return new_BN

    def _openings_of(self, part: Prepared, plans: Sequence[Plan]) -> list[Beginning] | None:
        """Every row's opening; ``None`` if generation cannot go on from them."""
        sizes = {(row.opened, len(row.ids_T)) for row in part.rows}
        if len(sizes) > 1 or not part.rows[0].opened or hooked(self._parts.decoder):
            return None
        if any(not isinstance(op, NeuronOperation) for one in plans for op in one.states):
            return None  # these would have to be told where in the row they act
        call = self.cut(part)
        if call is None:
            return None
        indices = range(len(part.rows))
        return self._openings.of(self._parts, call, indices, plans, self._state())

    def _prompts_read(self, run: Callable[[Sequence[Plan]], Tensor], plans: Sequence[Plan]) -> tuple[Tensor, Tensor]:
        """What is generated, and the likelihoods of the first token: [B, vocabulary]."""
        with capture({"norm": self._parts.norm}) as calls:
            new_BN = run(plans)
        return new_BN, self._parts.head(calls[0].output[:, -1])

    def _state(self) -> tuple[int, ...]:
        """Of the weights up to every layer; of the last, up to where no position looks at another."""
        stages = (*range(2, self.alone, 2), self.alone)
        return tuple(map(self._weights.state_before, stages))

    def _worth_it(
        self, rows: dict[int, Row], plans: Sequence[Plan], known: Known, *, lasting: bool, opened: bool
    ) -> list[list[int]]:
        """Indices of rows that are run faster so: those whose beginnings are known, or their openings, and those that
        share new ones."""
        begun = [
            index
            for index, row in rows.items()
            if beginning(row)
            and (
                (opened and row.opened)
                or (plans[index].states and lasting and self._starts)  # what is below the edit is kept for others
                or named(row, plans[index]) in known
                or known.start(row, plans[index])
            )
        ]
        return [begun, *worth_sharing({index: row for index, row in rows.items() if index not in begun})]

    def _checked(
        self, part: Prepared, plans: Sequence[Plan], stages: Collection[int], known: Known, whole: Whole
    ) -> list[Tensor] | None:
        """Every row's logits; ``None`` if the model cannot be run so. What is done for the first time is compared."""
        starts: Starts = {}
        if self._starts is not False:
            each = {named(row, acts): known.start(row, acts) for row, acts in zip(part.rows, plans, strict=True)}
            starts = {name: start for name, start in each.items() if start is not None and name not in known}
        logits = self._batch(part, plans, stages, known, starts)
        if self.holds is None or (starts and self._starts is None):
            holds = logits is not None and all(map(_alike, logits, whole(part, plans)))
            if not starts:
                self.holds = holds
            else:
                self._starts = holds
                if not holds:
                    known.forget(list(starts))
                    return self._checked(part, plans, stages, known, whole)
        return logits if self.holds else None

    def cut(self, part: Prepared) -> Cut | None:
        """The decoder's call for rows of one length of `beginning` with their targets; ``None`` if it cannot be cut."""
        if not self._parts.in_stream:
            return None
        batch = self._preparer.batch(part.rows, with_targets=True, left=False)
        return cut(self._parts, part.rows, partial(self._feeder.logits, batch, part, 1))

    def states(self, part: Prepared, layers: Sequence[int], *, keep: Collection[int] = ()) -> list[list[Tensor]] | None:
        """The states behind each layer, [T, D], of rows with their answers that have equally many tokens up to the
        last of their picture; what several begin with is run once, or not at all where it is known. ``None`` where this
        model cannot be run so. Further layers to ``keep`` are those that later runs may begin above."""
        call = self.cut(part) if beginning(part.rows[0]) and not self._hooked_up_to(max(layers)) else None
        return None if call is None else Known(self._parts, part.begun, self._state()).states(call, layers, keep=keep)

    def lower(
        self, part: Prepared, layers: int, run: Callable[[], Any], *, keep: Collection[int] = ()
    ) -> Tensor | None:
        """What the lowest layers make of rows with their answers, [B, T, D], padded on the left; ``None`` where this
        model cannot be run so. What is run of their beginnings later runs know.

        Args:
            part: rows.
            layers: how many; nothing acts on them.
            run: runs the rows whole, to compare with the first time.
            keep: lower layers that later runs may begin above.
        """
        counts = {beginning(row) for row in part.rows}
        if self.holds is False or self._lower is False or not layers or len(counts) > 1:
            return None
        with torch.no_grad():
            found = self.states(part, [layers - 1], keep=keep)
            if found is None:
                return None
            (each,) = found
            states_BTD = pad_sequence(each, batch_first=True, padding_side="left")
            if self._lower is None:
                (whole_BTD,) = states_behind(self._parts, [layers - 1], run)
                both = zip(each, whole_BTD, strict=True)
                self._lower = all(_alike(own_TD, other_TD[-len(own_TD) :]) for own_TD, other_TD in both)
        return states_BTD if self._lower else None

    def _hooked_up_to(self, layer: int) -> bool:
        """Whether somebody watches or changes the decoder up to a layer, or what the next one is given."""
        following = (*self._parts.layers, self._parts.norm)[layer + 1]
        above = {module for one in self._parts.layers[layer + 1 :] for module in one.modules()} - {following}
        return any(watched(module) for module in self._parts.decoder.modules() if module not in above)

    def _batch(
        self, part: Prepared, plans: Sequence[Plan], stages: Collection[int], known: Known, starts: Starts
    ) -> list[Tensor] | None:
        """Every row's logits, [N, vocabulary]; ``None`` if the model's call cannot be cut."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stages):
            call = self.cut(part)
            if call is None:
                return None
            begun = known.begin(call, plans, starts, below_first=bool(self._starts)) if call.count else []
        if stages:
            return call.predicting(self._kept(part, call, begun, stages))
        beside = [Plan(states=tuple(op for op in one.states if isinstance(op, NeuronOperation))) for one in plans]
        with (
            acting(self._parts, part.rows, beside, with_targets=True),  # changes of states are in the beginnings
            ending(self._parts, call.keep) if self._ends_alone else nullcontext(),
        ):
            return call.predicting(call.logits(begun))

    def _kept(self, part: Prepared, call: Cut, begun: Sequence[Beginning], stages: Collection[int]) -> Tensor:
        """The logits of the last positions; what rows were at the stages is kept where they stand alone."""
        state = {stage: self._weights.state_before(stage) for stage in stages}
        if self._ends_alone and set(stages) == {self.alone}:
            with ending(self._parts, call.keep) as attended:
                logits_BKV = call.logits(begun)
            belows = [
                Below(
                    self.alone, part.rows, state[self.alone], one.entering_BTD, one.output, (one.arguments,), {}, True
                )
                for one in attended
            ]
        else:
            logits_BKV, found = record(self._parts, state, part.rows, call.keep, partial(call.logits, begun))
            if self.alone in found:
                self._ends_alone = found[self.alone].stands_alone
            belows = [below for below in found.values() if below.stands_alone]
        for below in belows:
            for index, (row, end) in enumerate(zip(part.rows, call.ends, strict=True)):
                count = len(row.target_N)
                part.below[below.stage, id(row)] = below.of(index, end + count, count + 1)
        return logits_BKV

    def _from_stage(
        self, prepared: Prepared, rows: dict[int, Row], plans: Sequence[Plan], stages: Collection[int], most: int
    ) -> dict[int, Tensor]:
        """The logits of rows that have been run up to the first of the stages."""
        stage = min(stages)
        state = self._weights.state_before(stage)
        known: dict[int, Below] = {}
        for index, row in rows.items():
            below: Below | None = prepared.below.get((stage, id(row)))
            neurons_alone = all(isinstance(op, NeuronOperation) for op in plans[index].states)  # they need no places
            if below is not None and below.state == state and neurons_alone:
                known[index] = below
        found: dict[int, Tensor] = {}
        for some in of_like_length({index: rows[index] for index in known}, most):
            together = joined([known[index] for index in some])
            count = together.entering_BTD.shape[1]
            acts = [plans[index] for index in some]
            with acting(self._parts, together.rows, acts, with_targets=True):
                logits_BKV = together.logits(self._parts, count)
            for index, logits_KV in zip(some, logits_BKV, strict=True):
                found[index] = logits_KV[count - 1 - len(rows[index].target_N) : count - 1]
        return found


def _fits(row: Row, plan: Plan, stages: Collection[int]) -> bool:
    """Whether a row can be cut behind its picture: nothing that acts before reads what follows."""
    begins = row.picture is None or beginning(row) > 0
    return begins and not (plan.states and stages) and not any(map(reads_question, plan.states))


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether logits are the same but for rounding."""
    tolerance = _ROUNDING if one.dtype == torch.float32 else _COARSE_ROUNDING
    scale = float(other.detach().abs().max().clamp(min=1e-6)) if other.numel() else 1.0
    return not other.numel() or float((one.float() - other).detach().abs().max()) <= tolerance * scale
