"""A trained network that turns gradients into changes of weights, and the layers it is for: what `mend` and `ke` share.

Of what a training saves, ``layers`` and ``modules`` say where the layers are, ``shapes`` the size [O, I] of each weight
by its name on disk; the rest is the network's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from vlmend.data.records import EditCase
from vlmend.editors.gradients import Changes, Gradient, gradients_of, low_rank_op
from vlmend.editors.shelf import Trained
from vlmend.edits.ops import WeightOp
from vlmend.errors import EditFormatError
from vlmend.models.parts import LayerSpec
from vlmend.models.vlm import VLM

__all__ = ["Changer", "Layers"]

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Layers:
    """The linear layers of a model that are edited.

    Attributes:
        indices: of the decoder layers.
        modules: which modules in them, by role, "connector", "vision" or paths.
        linears: on-disk name of its weight -> layer.
    """

    indices: tuple[int, ...]
    modules: tuple[str, ...]
    linears: Mapping[str, nn.Linear]

    @classmethod
    def found(cls, vlm: VLM, layers: LayerSpec, modules: Sequence[str]) -> Layers:
        """Every linear layer within the modules.

        Raises:
            EditError: there is none.
            PartsError: the model has no such layers or modules.
        """
        indices = vlm.parts.layer_indices(layers)
        return cls(indices, tuple(modules), vlm.weights.linears(vlm.parts.modules(indices, modules)))

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Of each weight, (O, I)."""
        return {name: (linear.out_features, linear.in_features) for name, linear in self.linears.items()}

    @property
    def facts(self) -> dict[str, Any]:
        """What `Changer.read` finds them by, as JSON values."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {"layers": list(self.indices), "modules": list(self.modules), "shapes": shapes}


@dataclass(frozen=True, eq=False)
class Changer(Generic[N]):
    """A trained network and where its layers are, in any model of its fingerprint."""

    network: N
    layers: tuple[int, ...]
    modules: tuple[str, ...]

    @classmethod
    def read(cls, trained: Trained, vlm: VLM, build: Callable[[Mapping[str, tuple[int, int]]], N]) -> Changer[N]:
        """Out of what was saved.

        Args:
            trained: that.
            vlm: the model it is for.
            build: makes the network, for layers of these shapes, out of the tensors.

        Raises:
            EditFormatError: these are no weights of such a network.
        """
        try:
            facts = trained.facts
            network = build({name: (int(out), int(width)) for name, (out, width) in facts["shapes"].items()})
            network.requires_grad_(False).to(vlm.device)
            return cls(network, tuple(facts["layers"]), tuple(facts["modules"]))
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())  # torch's take several lines
            raise EditFormatError(f"the weights for '{trained.editor}' are no network's: {why}") from error

    def operation(
        self, vlm: VLM, cases: Sequence[EditCase], change: Callable[[EditCase, Mapping[str, Gradient]], Changes]
    ) -> WeightOp:
        """The sum of the changes that are made of each case's request by itself.

        Raises:
            EditError: a request's answer depends on none of the layers, or a change is not finite.
        """
        linears = Layers.found(vlm, self.layers, self.modules).linears
        prepared = vlm.prepare([case.request for case in cases])
        made: dict[int, Changes] = {}
        for index, gradients in gradients_of(vlm, prepared, linears, [case.id for case in cases]):
            with torch.no_grad():
                made[index] = change(cases[index], gradients)
        return low_rank_op(linears, [made[index] for index in range(len(cases))])
