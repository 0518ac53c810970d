"""What alignment minimises: a weighted sum of losses, as a value. A new loss is one line in `LOSSES`.

    sft = Objective((Term("sft"),))
    Objective((Term("sigmoid", 0.8, (("beta", 0.2),)),)) + 0.5 * sft

`recipes.py` has shorter ways to write them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from vlmend.alignment import losses
from vlmend.alignment.answers import Answers, Pairs, Reading, Side
from vlmend.errors import UnknownNameError, VlmendError

__all__ = ["LOSSES", "Loss", "Objective", "Setting", "Term"]

Setting = float | str
"""A number, or the name of a reduction."""


@dataclass(frozen=True)
class Loss:
    """A loss, and what of the pairs it is a function of.

    Attributes:
        function: from one tensor [B] for each side to B losses; its keyword arguments are settings.
        sides: whose numbers it takes, in this order.
        reference: whether these are log-ratios to a reference, else log-probabilities.
        reduce: how tokens become one number, unless a setting says otherwise.
    """

    function: Callable[..., Tensor]
    sides: tuple[Side, ...] = ("chosen", "rejected")
    reference: bool = True
    reduce: str = "sum"

    @property
    def settings(self) -> dict[str, Setting]:
        """Every setting with its default: the function's own, then those of `Reading`."""
        parameters = inspect.signature(self.function).parameters.values()
        own = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
        reading = Reading(self.reduce)
        return own | {name: getattr(reading, name) for name in _READING}

    def number(self, answers: Answers, reading: Reading) -> Tensor:
        """One number an answer, [B], as the function takes them."""
        return answers.log_ratios(reading) if self.reference else answers.log_probs(reading)


LOSSES: Mapping[str, Loss] = {
    "sigmoid": Loss(losses.sigmoid),
    "sigmoid-norm": Loss(losses.sigmoid, reduce="mean"),
    "robust": Loss(losses.robust),
    "hinge": Loss(losses.hinge),
    "ipo": Loss(losses.ipo, reduce="mean"),
    "apo-zero": Loss(losses.apo_zero),
    "apo-down": Loss(losses.apo_down),
    "bco": Loss(losses.bco),
    "nca": Loss(losses.nca),
    "exo": Loss(losses.exo),
    "sppo": Loss(losses.sppo),
    "image": Loss(losses.sigmoid, sides=("chosen", "weakened")),
    "anchor": Loss(losses.anchor, sides=("chosen",)),
    "sft": Loss(losses.nll, sides=("chosen",), reference=False, reduce="mean"),
}
"""Name -> loss. A term of an objective is one of these with a weight and settings."""

_READING = frozenset(one.name for one in fields(Reading))
_NOTHING = Answers(*(torch.zeros(1, 1) for _ in range(4)))


@dataclass(frozen=True)
class Term:
    """A loss with a weight and with settings that differ from its defaults.

    Raises:
        UnknownNameError: there is no such loss, or it has no such setting.
        VlmendError: the weight is below 0 or not finite, or a setting has a wrong type or is out of its range.
    """

    loss: str
    weight: float = 1.0
    settings: tuple[tuple[str, Setting], ...] = ()

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if not 0 <= self.weight < math.inf:
            raise VlmendError(f"the weight of '{self.loss}' is at least 0, not {self.weight}")
        kind = LOSSES[self.loss]
        for name, value in self.settings:
            if name not in kind.settings:
                raise UnknownNameError(f"setting of loss '{self.loss}'", name, kind.settings)
            if isinstance(kind.settings[name], str) != isinstance(value, str):
                noun = "word" if isinstance(kind.settings[name], str) else "number"
                raise VlmendError(f"setting '{name}' of loss '{self.loss}' is a {noun}, not {value!r}")
        # Tried once, so that a setting out of range is refused here and not when a model has been loaded.
        self.losses([kind.number(_NOTHING, self.reading) for _ in kind.sides])

    @property
    def reading(self) -> Reading:
        """How it turns tokens into one number an answer."""
        return Reading(**{name: value for name, value in self._all().items() if name in _READING})

    def __call__(self, pairs: Pairs) -> Tensor:
        """B losses, times the weight."""
        kind, reading = LOSSES[self.loss], self.reading
        return self.weight * self.losses([kind.number(pairs.side(side), reading) for side in kind.sides])

    def losses(self, numbers: Sequence[Tensor]) -> Tensor:
        """B losses, without the weight, of numbers that are known already: one tensor [B] for each side."""
        own = {name: value for name, value in self._all().items() if name not in _READING}
        return LOSSES[self.loss].function(*numbers, **own)

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings)
        weight = "" if self.weight == 1 else f"{self.weight}*"
        return f"{weight}{self.loss}" + (f"({settings})" if settings else "")

    def _all(self) -> dict[str, Any]:
        return LOSSES[self.loss].settings | dict(self.settings)


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses; ``str`` writes it as `recipes.objective` reads it.

    Raises:
        VlmendError: it has no terms.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise VlmendError("an objective needs a term")

    @property
    def sides(self) -> frozenset[Side]:
        """The answers that must be run through the model."""
        return frozenset(side for term in self.terms for side in LOSSES[term.loss].sides)

    @property
    def needs_reference(self) -> bool:
        """Whether the reference must be run too."""
        return any(LOSSES[term.loss].reference for term in self.terms)

    @property
    def needs_spans(self) -> bool:
        """Whether the answers must have labelled spans."""
        return any(term.reading.weighs_spans for term in self.terms)

    def parts(self, pairs: Pairs) -> tuple[Tensor, ...]:
        """The losses [B] of each term, times its weight; their sum is the objective's.

        Raises:
            VlmendError: a term reads what the pairs do not have.
        """
        return tuple(term(pairs) for term in self.terms)

    def __call__(self, pairs: Pairs) -> Tensor:
        """B losses; what is minimised is their mean.

        Raises:
            VlmendError: a term reads what the pairs do not have.
        """
        return torch.stack(self.parts(pairs)).sum(0)

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    def __rmul__(self, factor: float) -> Objective:
        return Objective(tuple(replace(term, weight=factor * term.weight) for term in self.terms))

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))
