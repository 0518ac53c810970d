"""How an editor learns to make changes of weights out of a request's gradient: the lesson of `mend` and `ke`.

Each case is edited by itself: a network makes changes out of the gradient of its request's loss, which is found once,
as the model's own weights stay. With these changes in force, as factors beside the layers (no weight is touched and no
matrix of a weight's size is made),

    L  =  request_weight * CE(target) at the request
        + edit_weight * sum over kinds that are learnt of  CE(target)
        + keep_weight * sum over kinds that must stay of  KL(before || after)

where CE and KL are means over all target tokens of the batch's rows of a kind, teacher-forced. Below the first stage
that is edited every row is run once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlmend.data.records import EditCase
from vlmend.editors.gradients import Changes, Gradient, gradients_of, in_force
from vlmend.editors.lessons import Graded, check_of, cross_entropy, divergence, retargeted
from vlmend.editors.training import Check
from vlmend.models.prepared import Prepared
from vlmend.models.vlm import VLM

__all__ = ["ChangesLesson", "Learned", "Weighed", "cases_from", "learned_from"]

_REQUEST = "reliability"


class Weighed(Protocol):
    """What a training says of its loss.

    Attributes:
        learns: kinds of probes that must give the target.
        keeps: kinds of probes whose answers must stay.
        request_weight, edit_weight, keep_weight: see above.
        retargets: how many targets beside its own each case is learnt with.
        seed: of their draw.
    """

    @property
    def learns(self) -> tuple[str, ...]: ...
    @property
    def keeps(self) -> tuple[str, ...]: ...
    @property
    def request_weight(self) -> float: ...
    @property
    def edit_weight(self) -> float: ...
    @property
    def keep_weight(self) -> float: ...
    @property
    def retargets(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Learned:
    """One case, ready to be learnt from.

    Attributes:
        case: the case.
        gradients: of its request's loss, by the weights' names on disk.
        prepared: the rows that must give the target, the request's first, and then those that must stay.
        kinds: of each row.
        before: of those that must stay the log-probabilities before any edit, [N, vocabulary].
    """

    case: EditCase
    gradients: Mapping[str, Gradient]
    prepared: Prepared
    kinds: tuple[str, ...]
    before: tuple[Tensor, ...]

    def wanted(self) -> Iterator[tuple[str, Any, Tensor | None]]:
        """Every row's kind, the row, and what it must stay; ``None`` if it must give its target."""
        wanted = (*[None] * (len(self.kinds) - len(self.before)), *self.before)
        return zip(self.kinds, self.prepared.rows, wanted, strict=True)


def cases_from(
    method: Weighed, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase], linears: Mapping[str, nn.Linear]
) -> tuple[list[Learned], list[Learned]]:
    """The cases to learn from, with other targets too, and those held out; see `learned_from`."""
    groups = retargeted(vlm, learned, method.retargets, learns=method.learns, seed=method.seed)
    every = [one for group in groups for one in group]
    return learned_from(method, vlm, every, linears), learned_from(method, vlm, held, linears)


def learned_from(
    method: Weighed, vlm: VLM, cases: Sequence[EditCase], linears: Mapping[str, nn.Linear]
) -> list[Learned]:
    """Run every case's rows, and its request's backwards; equal pictures are encoded once.

    Raises:
        EditError: a request's answer depends on none of the layers.
    """
    with vlm.sharing():
        return [_learned(method, vlm, case, linears) for case in cases]


def _learned(method: Weighed, vlm: VLM, case: EditCase, linears: Mapping[str, nn.Linear]) -> Learned:
    stay = [(p.kind, p.example) for p in case.probes if p.kind in method.keeps]
    learns = {*method.learns} - {*method.keeps}
    must = [(_REQUEST, case.request), *((p.kind, p.example) for p in case.probes if p.kind in learns)]
    both = [(kind, example) for kind, example in (*must, *stay) if (example.answer or "").strip()]
    prepared, kinds = vlm.prepare([example for _, example in both]), tuple(kind for kind, _ in both)
    kept = sum(kind in method.keeps for kind in kinds)
    outputs = vlm.run(prepared, first=vlm.weights.stage(linears)).rows[len(kinds) - kept :]
    before = tuple(one.logits_NV.log_softmax(-1) for one in outputs)
    ((_, gradients),) = gradients_of(vlm, prepared.take([0]), linears, [case.id])
    return Learned(case, gradients, prepared, kinds, before)


class ChangesLesson:
    """One training under way; see `vlmend.editors.training.Lesson`.

    Args:
        method: what the loss is made of.
        vlm: the model; its weights must stay as they are.
        linears: on-disk name of its weight -> layer, for all that are edited.
        module: what is trained.
        change: what it makes of a case.
        facts: what must be known to use it.
        learned: to learn from.
        held: to check on.
    """

    def __init__(
        self,
        method: Weighed,
        vlm: VLM,
        linears: Mapping[str, nn.Linear],
        module: nn.Module,
        change: Callable[[Learned], Changes],
        facts: Mapping[str, Any],
        learned: Sequence[Learned],
        held: Sequence[Learned],
    ) -> None:
        self._method = method
        self._vlm = vlm
        self._linears = linears
        self._change = change
        self._first = vlm.weights.stage(linears)
        self.module = module
        self.facts = facts
        self.learned = learned
        self.held = held

    @property
    def count(self) -> int:
        """How many edits there are to learn from."""
        return len(self.learned)

    def loss(self, chosen: Sequence[int], draw: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of some cases; nothing is drawn."""
        return self.losses([self.learned[place] for place in chosen])

    def losses(self, cases: Sequence[Learned]) -> tuple[Tensor, dict[str, float]]:
        """The loss, and its terms by name, as they enter it."""
        method = self._method
        graded = [one for case in cases for one in self._graded(case)]
        terms: dict[str, Tensor] = {}
        for kind in dict.fromkeys(one.kind for one in graded):
            some = [one for one in graded if one.kind == kind]
            logits, rows = [one.logits_NV for one in some], [one.row for one in some]
            before = [one.before_NV for one in some if one.before_NV is not None]
            if before:
                terms[f"kl {kind}"] = method.keep_weight * divergence(before, logits)
            else:
                weight = method.request_weight if kind == _REQUEST else method.edit_weight
                terms[f"ce {kind}"] = weight * cross_entropy(logits, rows)
        return torch.stack(list(terms.values())).sum(), {name: float(term.detach()) for name, term in terms.items()}

    @torch.no_grad()
    def check(self) -> Check:
        """Teacher-forced, on the cases held out: the share of rows all of whose tokens are likeliest, by kind."""
        return check_of(one for case in self.held for one in self._graded(case))

    def _graded(self, case: Learned) -> list[Graded]:
        """Every row of a case with its own edit in force."""
        with in_force(self._linears, self._change(case)):
            outputs = self._vlm.run(case.prepared, grad=torch.is_grad_enabled(), first=self._first).rows
        return [
            Graded(kind, row, output.logits_NV, before_NV)
            for (kind, row, before_NV), output in zip(case.wanted(), outputs, strict=True)
        ]
