"""The network of `mend`: what it makes of a gradient in factored form.

Mitchell et al., *Fast Model Editing at Scale*, ICLR 2022, arXiv 2110.11309, section 3. Each token's pair u [I],
delta [O] at a layer is one vector z = norm([u; delta]), D = I + O, and goes through two maps of low rank, each

    z  <-  z + max(0, s * (U V z + b) + t)          U [D, R], V [R, D], b, s, t [D]

with U zero at first, so that the network begins as the identity. The result, split again, is u~, delta~, and the change
of the layer's weight alpha * sum_t delta~_t u~_t^T. Layers of one shape share a network and have s, t and alpha of
their own, or each has its own network (and no s, t).

norm takes from each entry its mean and divides by its deviation (unbiased, plus 1e-7) over all tokens of the edits that
are learnt from. The published code has running ones; here the model that is edited stays as it is, so they are known
before the first step. An entry that hardly varied there is divided by a share of its neighbours' deviation: by its own,
what it is elsewhere would be blown up by any factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlmend.editors.gradients import Changes, Gradient

__all__ = ["IDMLP", "MENDNetwork", "Moments", "grouped"]

_MAPS = 2
_LEAST = 1e-7  # beside a deviation, as published
_STEADY = 1e-3  # of the mean deviation: an entry that varies less is taken to vary so much


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and deviation of vectors that come in parts.

    Attributes:
        count: how many there were.
        mean_D: their mean.
        squares_D: the sum of their squared distances from it.
    """

    count: int
    mean_D: Tensor
    squares_D: Tensor

    @classmethod
    def none(cls, dim: int) -> Moments:
        """Of no vectors."""
        return cls(0, torch.zeros(dim), torch.zeros(dim))

    def with_more(self, vectors_TD: Tensor) -> Moments:
        """Of these and further vectors."""
        if not len(vectors_TD):
            return self
        added, total = len(vectors_TD), self.count + len(vectors_TD)
        mean_D = vectors_TD.mean(0)
        apart_D = mean_D - self.mean_D.to(mean_D)
        squares_D = (vectors_TD - mean_D).square().sum(0) + apart_D.square() * (self.count * added / total)
        return Moments(total, self.mean_D.to(mean_D) + apart_D * (added / total), self.squares_D.to(mean_D) + squares_D)

    @property
    def deviation_D(self) -> Tensor:
        """Unbiased; 1 where it cannot be told."""
        return (self.squares_D / (self.count - 1)).sqrt() if self.count > 1 else torch.ones_like(self.mean_D)


class _Map(nn.Module):
    """One of the maps, with ``sharing`` pairs of s and t; none where one layer has it alone."""

    both: Tensor | None

    def __init__(self, dim: int, rank: int, sharing: int) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.zeros(dim, rank))
        self.into = nn.Parameter(torch.randn(rank, dim) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.scale = nn.Parameter(torch.ones(sharing, dim)) if sharing > 1 else None
        self.shift = nn.Parameter(torch.zeros(sharing, dim)) if sharing > 1 else None
        self.register_buffer("both", None, persistent=False)

    def join(self) -> None:
        """Hold U V as one matrix; they must not change any more."""
        self.both = self.out.detach() @ self.into.detach()

    def forward(self, z_TD: Tensor, layer: int) -> Tensor:
        moved_TD = (z_TD @ self.into.T @ self.out.T if self.both is None else z_TD @ self.both.T) + self.bias
        if self.scale is not None and self.shift is not None:
            moved_TD = self.scale[layer] * moved_TD + self.shift[layer]
        return z_TD + moved_TD.clamp(min=0)  # no relu: its gradient is 0 where all this begins, at 0


class IDMLP(nn.Module):
    """The network of some layers of one shape.

    Args:
        width: I, of their inputs.
        dim: D, of inputs and outputs together.
        rank: R; D is as good as any more.
        layers: how many layers share it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, dim: int, rank: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.maps = nn.ModuleList(_Map(dim, min(rank, dim), layers) for _ in range(_MAPS))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def measure(self, moments: Moments) -> None:
        """Take its normalisation from all that there is to learn from."""
        self.mean.copy_(moments.mean_D)
        sides = moments.deviation_D.split([self.width, len(self.mean) - self.width])
        self.deviation.copy_(torch.cat([side.clamp(min=_STEADY * float(side.mean())) for side in sides]))

    def forward(self, gradient: Gradient, layer: int) -> Gradient:
        """The gradient as it should be at one of the layers, by its place among them."""
        z_TD = (_vectors(gradient) - self.mean) / (self.deviation + _LEAST)
        for one in self.maps:
            z_TD = one(z_TD, layer)
        return Gradient(z_TD[:, : self.width], z_TD[:, self.width :])


class MENDNetwork(nn.Module):
    """The networks of all layers that are edited.

    Args:
        groups: on-disk names of weights; those of a group share a network.
        shapes: of each weight, (O, I).
        rank: R of the maps.
        alpha: what every layer's alpha begins at. The published code adds a change that begins as the gradient itself,
            so that a first step worsens what it should mend; a negative one steps downhill from the start.
        unit: what a parameter of 1 is of alpha, which makes Adam's steps on alpha as much longer or shorter.
    """

    unit: Tensor

    def __init__(
        self,
        groups: Sequence[Sequence[str]],
        shapes: Mapping[str, tuple[int, int]],
        rank: int,
        alpha: float = 0.0,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.groups = [list(group) for group in groups]
        self._places = {name: (at, place) for at, group in enumerate(groups) for place, name in enumerate(group)}
        each = [(*shapes[group[0]], len(group)) for group in groups]
        self.networks = nn.ModuleList(IDMLP(width, out + width, rank, count) for out, width, count in each)
        self.steps = nn.ParameterList(torch.full((len(group),), alpha / unit) for group in groups)
        self.register_buffer("unit", torch.tensor(unit))

    @classmethod
    def trained(
        cls, groups: Sequence[Sequence[str]], shapes: Mapping[str, tuple[int, int]], tensors: Mapping[str, Tensor]
    ) -> MENDNetwork:
        """The network that has these tensors, to be used and not to be trained any more.

        Raises:
            KeyError, RuntimeError, ValueError: these are no network's.
        """
        rank = max(len(tensors[f"networks.{at}.maps.0.into"]) for at in range(len(groups)))
        made = cls(groups, shapes, rank)
        made.load_state_dict(dict(tensors))
        for network in made._networks():
            for one in network.maps:
                dim, rank = one.out.shape
                if 2 * rank > dim:  # fewer products
                    one.join()
        return made

    def measure(self, edits: Iterable[Mapping[str, Gradient]]) -> None:
        """Take every network's normalisation from the gradients of some edits."""
        moments = [Moments.none(len(one.mean)) for one in self._networks()]
        for gradients in edits:
            for name, gradient in gradients.items():
                at, _ = self._places[name]
                moments[at] = moments[at].with_more(_vectors(gradient))
        for network, found in zip(self._networks(), moments, strict=True):
            network.measure(found)

    def forward(self, gradients: Mapping[str, Gradient]) -> Changes:
        """The change of each layer that has a gradient, as factors alpha * delta~^T and u~."""
        changes: dict[str, tuple[Tensor, Tensor]] = {}
        for name, gradient in gradients.items():
            at, place = self._places[name]
            made: Gradient = self.networks[at](gradient, place)
            alpha = self.unit * self.steps[at][place]
            changes[name] = (alpha * made.deltas_TO.T, made.inputs_TI)
        return changes

    def _networks(self) -> list[Any]:
        return list(self.networks)


def grouped(shapes: Mapping[str, tuple[int, int]], *, shared: bool) -> list[list[str]]:
    """Names by their weights' shapes, or each by itself."""
    groups: dict[Any, list[str]] = {}
    for name, shape in shapes.items():
        groups.setdefault(shape if shared else name, []).append(name)
    return list(groups.values())


def _vectors(gradient: Gradient) -> Tensor:
    """[u; delta], [T, D], in float32 or wider."""
    return torch.cat([gradient.inputs_TI, gradient.deltas_TO], -1).float()
