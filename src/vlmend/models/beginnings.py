"""What rows begin with, kept from run to run: under the same edits as it is, under others from where these act.

Texts that stand in front of all (`Row.opening`) are openings: kept from call to call, and for all that is prepared.

What an edit makes of a picture differs only from its layer on. The layers below are not run again for it: their keys
and values are those of the picture without it, and so are the states that it acts on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from vlmend.models.caches import Beginning
from vlmend.models.intervene import NeuronOperation, Plan, acting
from vlmend.models.parts import Parts
from vlmend.models.prefix import Cut, beginning, name_of, stump
from vlmend.models.prepared import Row
from vlmend.models.starting import starting

__all__ = ["Known", "Openings", "Starts", "named"]

_OPENINGS = 8192  # tokens of openings that are kept: their keys and values are large

State = tuple[int, ...]
"""For every layer a number that tells whether the weights up to it are what they were."""

_Kept = dict[State, dict[Any, Beginning]]
"""State of the weights -> name -> what is known of a beginning."""

Starts = Mapping[Any, tuple[int, Beginning]]
"""Name -> how many of the lowest layers of a known beginning are its own too, and that one."""


def named(row: Row, plan: Plan) -> tuple[Any, ...]:
    """Equal for rows whose beginnings are run alike."""
    return (name_of(row, beginning(row)), *plan.states)


class Openings:
    """What openings come to; of those that were used last, up to so many tokens."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Beginning] = OrderedDict()

    def of(
        self, parts: Parts, call: Cut, indices: Sequence[int], plans: Sequence[Plan], state: State
    ) -> list[Beginning]:
        """What each of some rows of a call has for an opening; run where it is not known in this state of the weights.

        Args:
            parts: the model's.
            call: of rows.
            indices: which of them; each has an opening.
            plans: what acts on every row of the call; of it only neurons act where there is no picture.
            state: of the weights.
        """
        found: list[Beginning] = []
        for index in indices:
            row = call.rows[index]
            neurons = tuple(op for op in plans[index].states if isinstance(op, NeuronOperation))
            name = (state, tuple(row.ids_T[: row.opened].tolist()), *neurons)
            if name not in self._kept:
                only = stump(row, row.opened)
                with acting(parts, [only], [Plan(states=neurons)], with_targets=False):
                    (self._kept[name],) = call.begin([index], count=row.opened)
            self._kept.move_to_end(name)
            found.append(self._kept[name])
        while len(self._kept) > 1 and sum(one.tokens for one in self._kept.values()) > _OPENINGS:
            self._kept.popitem(last=False)
        return found


class Known:
    """The beginnings that are known in one state of the weights.

    Args:
        parts: the model's.
        kept: what is known in all states; new ones are added.
        state: of the weights; ``None`` where nothing is known, and nothing will be.
        openings: what is known of openings, and the state of the weights; ``None`` to run them with what follows.
    """

    def __init__(
        self, parts: Parts, kept: _Kept, state: State | None, openings: tuple[Openings, State] | None = None
    ) -> None:
        self._parts = parts
        self._openings = openings
        self._lasting = state is not None
        self._kept: _Kept = {} if state is None else kept
        self._state = state or ()
        whole = len(parts.layers)
        self._mine: dict[Any, Beginning] = {
            name: one for name, one in self._kept.get(self._state, {}).items() if one.depth == whole
        }

    def __contains__(self, name: Any) -> bool:
        return name in self._mine

    def start(self, row: Row, plan: Plan) -> tuple[int, Beginning] | None:
        """What a row's beginning has in common with a known one."""
        name, same = named(row, Plan()), self._untouched(plan)
        found = [
            (self._shared(known[name], min(same, _alike(self._state, state))), known[name])
            for state, known in self._kept.items()
            if name in known
        ]
        layers, known = max(found, key=lambda one: one[0], default=(0, None))
        return None if known is None or not layers else (layers, known)

    def _untouched(self, plan: Plan) -> int:
        """How many of the lowest layers run as without what acts."""
        return min(
            (op.layer + (not isinstance(op, NeuronOperation)) for op in plan.states), default=len(self._parts.layers)
        )

    def _shared(self, known: Beginning, most: int) -> int:
        """How many of the lowest ``most`` layers of a known beginning need not be run again."""
        if most == known.depth == len(self._parts.layers):
            return most
        return max((layer + 1 for layer in known.outputs if layer < most), default=0)

    def forget(self, names: Sequence[Any]) -> None:
        """Let them be run anew."""
        for name in names:
            self._mine.pop(name, None)

    def keep(self) -> None:
        """Let later runs know what this one does."""
        if self._lasting:
            self._kept.setdefault(self._state, {}).update(self._mine)

    def begin(self, call: Cut, plans: Sequence[Plan], starts: Starts, *, below_first: bool = False) -> list[Beginning]:
        """What every row begins with; run where it is not known.

        Args:
            call: of the rows.
            plans: what acts on each.
            starts: what beginnings have in common with known ones.
            below_first: run those on which something acts up to there, and keep that, before they are run on.
        """
        names = [named(row, plan) for row, plan in zip(call.rows, plans, strict=True)]
        count = len(self._parts.layers)
        alike: dict[tuple[int, int, bool], list[int]] = {}
        opened: dict[int, list[int]] = {}
        for name in dict.fromkeys(names):
            index = names.index(name)
            layers, base = starts.get(name, (0, None))
            if name not in self._mine and layers == count and base is not None:
                self._mine[name] = base
            elif name not in self._mine and call.rows[index].opened and self._openings is not None:
                opened.setdefault(call.rows[index].opened, []).append(index)
            elif name not in self._mine:
                plan = plans[index]
                alike.setdefault((layers, self._untouched(plan), bool(plan.states)), []).append(index)
        for group in opened.values():
            for some in call.at_once(group):
                made = self._behind_openings(call, plans, some)
                self._mine.update(zip((names[index] for index in some), made, strict=True))
        for (layers, untouched, edited), group in alike.items():
            fresh = below_first and self._lasting and edited and not layers and 0 < untouched < count
            for some in call.at_once(group):
                if fresh:
                    bases = self._begun_below(call, some, untouched)
                else:
                    bases = [starts[names[index]][1] for index in some] if layers else []
                made = self._go_on(call, plans, some, untouched if fresh else layers, bases, edited)
                self._mine.update(zip((names[index] for index in some), made, strict=True))
        return [self._mine[name] for name in names]

    def _behind_openings(self, call: Cut, plans: Sequence[Plan], some: Sequence[int]) -> list[Beginning]:
        """Run what equally long openings are followed by, up to where beginnings end."""
        assert self._openings is not None
        known, state = self._openings
        openings = known.of(self._parts, call, some, plans, state)
        if openings[0].tokens == call.count:
            return openings
        stumps = [stump(call.rows[index], call.count, openings[0].tokens) for index in some]
        with acting(self._parts, stumps, [plans[index] for index in some], with_targets=False):
            return call.begin(some, openings=openings)

    def _go_on(
        self,
        call: Cut,
        plans: Sequence[Plan],
        some: Sequence[int],
        layers: int,
        bases: Sequence[Beginning],
        edited: bool,
    ) -> list[Beginning]:
        """Run beginnings from a layer on, where what they are below is known."""
        stumps = [stump(call.rows[index], call.count) for index in some]
        with ExitStack() as stack:
            stack.enter_context(acting(self._parts, stumps, [plans[i] for i in some], with_targets=False))
            if layers:
                gave_BTD = torch.cat([base.outputs[layers - 1] for base in bases])
                stack.enter_context(starting(self._parts, layers, gave_BTD))
            keep = range(len(self._parts.layers) - 1) if self._lasting and not edited else ()
            made = call.begin(some, keep=keep)
        return [one.over(base, layers) for one, base in zip(made, bases, strict=True)] if layers else made

    def _begun_below(self, call: Cut, some: Sequence[int], layers: int) -> list[Beginning]:
        """Run the lowest layers of beginnings as the model is, and let later runs know."""
        made = call.begin(some, keep=range(layers), end=layers)
        known = self._kept.setdefault(self._state, {})
        for index, one in zip(some, made, strict=True):
            known.setdefault(named(call.rows[index], Plan()), one)
        return made

    def states(self, call: Cut, layers: Sequence[int], *, keep: Collection[int] = ()) -> list[list[Tensor]]:
        """Every unedited row's states behind each layer, prompt and target, [T, D]; nothing above these is run.

        Args:
            call: of the rows.
            layers: which.
            keep: lower layers that later runs may begin above.
        """
        names = [named(row, Plan()) for row in call.rows]
        kept = {**self._kept.get(self._state, {}), **self._mine}
        begun = {name: one for name in names if (one := kept.get(name)) and set(layers) <= one.outputs.keys()}
        fresh = [names.index(name) for name in dict.fromkeys(names) if name not in begun]
        for some in call.at_once(fresh):
            made = call.begin(some, keep={*layers, *keep}, end=max(layers) + 1)
            begun.update(zip((names[index] for index in some), made, strict=True))
        if self._lasting:
            known = self._kept.setdefault(self._state, {})
            new = [names[index] for index in fresh]
            deeper = [name for name in new if name not in known or known[name].depth <= max(layers)]
            known.update((name, begun[name]) for name in deeper)
        each = [begun[name] for name in names]
        lengths = [len(row.ids_T) + len(row.target_N) - call.count for row in call.rows]
        return [
            [
                torch.cat([one.outputs[layer][0], after_TD[:length]])
                for one, after_TD, length in zip(each, call.go_on(each, end=layer + 1), lengths, strict=True)
            ]
            for layer in layers
        ]


def _alike(one: State, other: State) -> int:
    """How many layers have the same weights, and all before them."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))
