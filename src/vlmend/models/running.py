"""One padded batch, teacher-forced: from the stage that its earlier runs have left, or from the start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from torch import Tensor

from vlmend.models.begun import Begun
from vlmend.models.feed import Feeder
from vlmend.models.intervene import Plan, acting, first_stage
from vlmend.models.outputs import RowOutput, row_output
from vlmend.models.parts import Parts
from vlmend.models.prepared import Prepared, Preparer
from vlmend.models.resume import Below, record
from vlmend.models.starting import starting
from vlmend.models.weights import Weights

__all__ = ["Reused", "Runner"]


@dataclass(frozen=True)
class Reused:
    """What a run takes from earlier ones of the same rows, and leaves to later ones.

    Attributes:
        first: the first stage that they may differ in; 0 to run the whole.
        later: further stages that later runs will begin at.
        share: run what comes before from what rows begin with.
        keep_lower: then keep every layer's states, for runs that begin lower.
    """

    first: int = 0
    later: Collection[int] = ()
    share: bool = False
    keep_lower: bool = False


class Runner:
    """Runs batches of one model whole, or from a stage on."""

    def __init__(self, parts: Parts, weights: Weights, preparer: Preparer, feeder: Feeder, begun: Begun) -> None:
        self._parts = parts
        self._weights = weights
        self._preparer = preparer
        self._feeder = feeder
        self._begun = begun

    def logits(self, prepared: Prepared, keep: int) -> Tensor:
        """Logits of the last ``keep`` positions of rows with their answers, in one batch that is padded on the left:
        [B, keep, vocabulary]. The model is run as it is called, with the weights and hooks of now."""
        return self._feeder.logits(self._preparer.batch(prepared.rows, with_targets=True), prepared, keep)

    def whole(self, prepared: Prepared, plans: Sequence[Plan]) -> list[Tensor]:
        """Every row's logits where its target is predicted, [N, vocabulary] each, run from the start."""
        return [row.logits_NV for row in self.run(prepared, plans, Reused())]

    def run(self, prepared: Prepared, plans: Sequence[Plan], reused: Reused) -> list[RowOutput]:
        """The outputs of rows, with what acts on each; what can be reused is kept with ``prepared``."""
        count = max(len(row.target_N) for row in prepared.rows) + 1
        lowest = first_stage([op for one in plans for op in one.states], self._weights)
        with acting(self._parts, prepared.rows, plans, with_targets=True):
            # What acts on states is run each time.
            first, later = min(reused.first, lowest), {min(stage, lowest) for stage in reused.later}
            logits_BKV = self._logits(prepared, count, replace(reused, first=first, later=later))
        ends = [(count - 1 - len(row.target_N), count - 1) for row in prepared.rows]
        return [
            row_output(row, logits_KV[start:end])
            for row, logits_KV, (start, end) in zip(prepared.rows, logits_BKV, ends, strict=True)
        ]

    def _logits(self, prepared: Prepared, count: int, reused: Reused) -> Tensor:
        """Logits of the last positions; from the first stage on, if what comes before has been run already."""

        def run() -> Tensor:
            return self.logits(prepared, count)

        rows = tuple(map(id, prepared.rows))
        if not self._parts.in_stream and prepared.rows[0].picture is None:
            return run()  # not all layers are run
        states = {stage: self._weights.state_before(stage) for stage in {reused.first, *reused.later} if stage > 0}
        known = {stage: prepared.below.get((stage, rows)) for stage in states}
        valid = [below for stage, below in known.items() if below is not None and below.state == states[stage]]
        if valid and len(valid) == len(states):
            below: Below = max(valid, key=lambda one: one.stage)
            return below.logits(self._parts, count) if below.exact else run()
        if not states:
            return run()
        layers = min(states) // 2
        keep = range(layers if reused.keep_lower else 0)
        lower = self._begun.lower(prepared, layers, run, keep=keep) if reused.share else None
        with nullcontext() if lower is None else starting(self._parts, layers, lower):
            logits_BKV, found = record(self._parts, states, prepared.rows, count, run)
        prepared.below.update({(stage, rows): one for stage, one in found.items()})
        return logits_BKV
