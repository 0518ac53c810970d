"""The executor: which operations act on which row of a batch, and how they act while a model runs.

It knows seven kinds of operation as protocols, and no method: changes of weights (`weights.py` folds them), changes of
states, neurons beside a layer's own, texts put before the question (`telling.py` puts them), changes of logits
(`mixing.py` makes them), answers given in the model's place, and routes that lead to others. Every row has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vlmend.errors import EditError
from vlmend.models.mixing import LogitsOperation
from vlmend.models.parts import NO_VISUAL_TOKENS, Parts
from vlmend.models.prepared import Row
from vlmend.models.trace import bridged, rewritten
from vlmend.models.weights import Weights, WeightsOperation

__all__ = [
    "AnswerOperation",
    "DecidingOperation",
    "NeuronOperation",
    "Plan",
    "PromptOperation",
    "RouteOperation",
    "StateOperation",
    "acting",
    "check",
    "first_stage",
    "joined",
    "plan",
    "reads_question",
]


@runtime_checkable
class StateOperation(Protocol):
    """Changes what a decoder layer hands on, while the prompt is read.

    One whose ``reads_question`` is false acts at visual tokens alone and depends on nothing behind them, so that
    prompts which begin alike up to there are changed alike.
    """

    @property
    def layer(self) -> int:
        """Index of the layer after which it acts."""
        ...

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with another number of layers or width by an `EditError`."""
        ...

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        """The new states of one prompt; ``visual_T`` says which of its tokens are visual."""
        ...


@runtime_checkable
class DecidingOperation(StateOperation, Protocol):
    """A change of states at every token, of the prompt and of the answer, that the prompt's states decide on."""

    def decided(self, states_TD: Tensor, visual_T: Tensor) -> Callable[[Tensor], Tensor]:
        """What it makes of any states of a row, [N, D], given all those of its prompt."""
        ...


@runtime_checkable
class NeuronOperation(Protocol):
    """Adds to what a decoder layer's feed-forward part returns, at every token, of the prompt and of the answer."""

    @property
    def layer(self) -> int:
        """Index of the layer."""
        ...

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with another number of layers or width by an `EditError`."""
        ...

    def added(self, inputs_TD: Tensor) -> Tensor:
        """What is added, out of what the feed-forward part is given."""
        ...


@runtime_checkable
class PromptOperation(Protocol):
    """Puts text before a row's question, where the pictures stay, and in front of all, where they come behind it."""

    @property
    def lead(self) -> str:
        """What stands between all such texts and the question; of those in front of all, nothing."""
        ...

    def told(self, key: Callable[[], Tensor]) -> tuple[str, str]:
        """The texts for a row, in front of all and before the question, empty for none; ``key`` gives what rows are
        compared by (`telling.py`), [2, D]."""
        ...

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with another number of layers or width by an `EditError`."""
        ...


@runtime_checkable
class AnswerOperation(Protocol):
    """Gives an answer in the model's place."""

    @property
    def answer(self) -> str: ...


@runtime_checkable
class RouteOperation(Protocol):
    """Leads some inputs to other operations."""

    @property
    def inner(self) -> Sequence[Any]: ...

    def chosen(self, row: Any) -> Sequence[Any]:
        """The operations that act on this row; none to abstain."""
        ...


def reads_question(operation: object) -> bool:
    """Whether a change of states depends on more than the picture; one that does not say so may."""
    return not isinstance(operation, NeuronOperation) and bool(getattr(operation, "reads_question", True))


@dataclass(frozen=True)
class Plan:
    """What acts on one row: changes of weights, changes of states in their order (neurons among them), an answer
    given instead, texts before the question, in their order, and changes of logits."""

    weights: tuple[WeightsOperation, ...] = ()
    states: tuple[StateOperation | NeuronOperation, ...] = ()
    answer: str | None = None
    prompts: tuple[PromptOperation, ...] = ()
    logits: tuple[LogitsOperation, ...] = ()


_KINDS: tuple[Any, ...] = (
    RouteOperation,
    WeightsOperation,
    StateOperation,
    NeuronOperation,
    AnswerOperation,
    PromptOperation,
    LogitsOperation,
)
_known_kinds: dict[type, Any] = {}


def _kind_of(op: Any) -> Any:
    """Which of the kinds an operation is; asked once for each type, since asking takes long.

    Raises:
        EditError: it is none of them.
    """
    kind = _known_kinds.get(type(op))
    if kind is None:
        kind = next((one for one in _KINDS if isinstance(op, one)), None)
        if kind is None:
            raise EditError(f"no executor for operations of kind {type(op).__name__}")
        _known_kinds[type(op)] = kind
    return kind


def joined(ops: Iterable[Any]) -> tuple[Any, ...]:
    """Operations in their order, each that an earlier one takes in (``joined``) within that."""
    found: list[Any] = []
    for op in ops:
        for place, one in enumerate(found):
            if isinstance(one, _Joining) and (both := one.joined(op)) is not None:
                found[place] = both
                break
        else:
            found.append(op)
    return tuple(found)


@runtime_checkable
class _Joining(Protocol):
    """Can be one with others of its kind: with the entries of both a pool finds the best of all."""

    def joined(self, other: Any) -> Any | None:
        """Both as one; ``None`` where they cannot be."""
        ...


def plan(ops: Iterable[Any], row: Row) -> Plan:
    """Follow the routes of a row; of several answers the last counts."""
    weights: list[WeightsOperation] = []
    states: list[StateOperation | NeuronOperation] = []
    answer: str | None = None
    prompts: list[PromptOperation] = []
    logits: list[LogitsOperation] = []
    for op in ops:
        kind = _kind_of(op)
        if kind is RouteOperation:
            inner = plan(op.chosen(row), row)
            weights += inner.weights
            states += inner.states
            prompts += inner.prompts
            logits += inner.logits
            answer = answer if inner.answer is None else inner.answer
        elif kind is WeightsOperation:
            weights.append(op)
        elif kind is AnswerOperation:
            answer = op.answer
        elif kind is PromptOperation:
            prompts.append(op)
        elif kind is LogitsOperation:
            logits.append(op)
        else:
            states.append(op)
    return Plan(tuple(weights), tuple(states), answer, tuple(prompts), tuple(logits))


def first_stage(ops: Iterable[Any], weights: Weights) -> int:
    """The first stage (`Parts.stage_of`) that operations act on: what comes before it does not depend on them."""
    found: list[int] = []
    for op in ops:
        kind = _kind_of(op)
        if kind is RouteOperation:
            found.append(first_stage(op.inner, weights))
        elif kind is WeightsOperation:
            found.append(weights.stage(op.names))
        elif kind is PromptOperation:
            found.append(0)
        elif kind not in (AnswerOperation, LogitsOperation):  # they act behind the model
            found.append(2 * op.layer + (kind is NeuronOperation))
    return min(found, default=weights.stage([]))


def check(ops: Iterable[Any], parts: Parts, weights: Weights) -> None:
    """Refuse operations that this model cannot carry out.

    Raises:
        EditError: an unknown kind of operation, tensor, layer, or width, or one on visual tokens that there are not.
    """
    for op in ops:
        kind = _kind_of(op)
        if kind is RouteOperation:
            check(op.inner, parts, weights)
        elif kind is WeightsOperation:
            weights.check(op)
        elif kind is not AnswerOperation:
            width: Any = parts.norm.weight
            op.check(len(parts.layers), len(width))
            if kind is StateOperation and not parts.in_stream:
                raise EditError(NO_VISUAL_TOKENS)
            if kind is NeuronOperation:
                parts.feed_forward_ends(op.layer)


@contextmanager
def acting(
    parts: Parts, rows: Sequence[Row], plans: Sequence[Plan], *, with_targets: bool
) -> Generator[None, None, None]:
    """Within the block a batch of these rows, padded on the left, is run with each row's changes of states.

    Changes of states act the first time that a layer is called, when the prompts are read; a later call is a step of
    generation, at which those that the prompt decides on act too. Neurons act in every call.
    """
    ops = [op for one in plans for op in one.states]
    if any(_kind_of(op) is StateOperation for op in ops):
        parts.need_visual_tokens()
    changed = sorted({op.layer for op in ops if _kind_of(op) is StateOperation})
    widened = sorted({op.layer for op in ops if _kind_of(op) is NeuronOperation})
    changes = {parts.layers[layer]: _change(layer, rows, plans, with_targets) for layer in changed}
    with rewritten(changes), bridged({parts.feed_forward_ends(layer): _neurons(layer, plans) for layer in widened}):
        yield


def _neurons(layer: int, plans: Sequence[Plan]) -> Callable[[Tensor], Tensor]:
    """What each row's neurons add to a layer's feed-forward part; its input may have rows and tokens in one axis."""
    mine: list[list[Any]] = [
        [op for op in one.states if _kind_of(op) is NeuronOperation and op.layer == layer] for one in plans
    ]

    def add(inputs: Tensor) -> Tensor:
        inputs_BTD = inputs.reshape(len(plans), -1, inputs.shape[-1])
        added = [
            sum((op.added(inputs_TD) for op in ops), torch.zeros_like(inputs_TD))
            for inputs_TD, ops in zip(inputs_BTD, mine, strict=True)
        ]
        return torch.stack(added).reshape(inputs.shape)

    return add


def _change(
    layer: int, rows: Sequence[Row], plans: Sequence[Plan], with_targets: bool
) -> Callable[[Tensor], Tensor | None]:
    each: list[list[Any]] = [
        [op for op in one.states if _kind_of(op) is StateOperation and op.layer == layer] for one in plans
    ]
    ops = {index: mine for index, mine in enumerate(each) if mine}
    lasting: dict[int, list[Callable[[Tensor], Tensor]]] = {}
    done = False

    def prompts(states_BTD: Tensor) -> Tensor:
        changed = list(states_BTD)
        for index, mine in ops.items():
            row, states_TD = rows[index], changed[index]
            begin = len(states_TD) - len(row.ids_T) - (len(row.target_N) if with_targets else 0)
            before, prompt, after = states_TD.tensor_split((begin, begin + len(row.ids_T)))
            for op in mine:
                if isinstance(op, DecidingOperation):
                    act = op.decided(prompt, row.visual_T)
                    lasting.setdefault(index, []).append(act)
                    prompt, after = act(prompt), act(after)
                else:
                    prompt = op.change(prompt, row.visual_T)
            changed[index] = torch.cat([before, prompt, after])
        return torch.stack(changed)

    def change(states_BTD: Tensor) -> Tensor | None:
        nonlocal done
        if not done:
            done = True
            return prompts(states_BTD)
        if not lasting:
            return None
        changed = list(states_BTD)
        for index, acts in lasting.items():
            for act in acts:
                changed[index] = act(changed[index])
        return torch.stack(changed)

    return change
