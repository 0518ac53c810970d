"""A decoder's cache that begins with what some rows begin with, copied once and into room that all layers share.

What begins may itself go on from an opening, a text that stands before several pictures: that is kept once.

The library's own grows by joining tensors: for many short rows that go on from long beginnings, copying these takes as
long as running the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["Beginning", "Filled", "cache_for", "cached_in", "ends_run"]

Cached = tuple[tuple[Tensor, Tensor], ...]
"""Every layer's keys and values, [1, heads, tokens, width]."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a decoder makes of what some rows begin with.

    Attributes:
        cached: every layer's keys and values; or the lowest layers', where the others have not been run.
        outputs: layer -> what it gave, [1, tokens, D]; of those that are kept.
        opening: what it goes on from, and does not hold again.
    """

    cached: Cached
    outputs: Mapping[int, Tensor]
    opening: Beginning | None = None

    @property
    def depth(self) -> int:
        """How many layers have been run."""
        return len(self.cached)

    @property
    def tokens(self) -> int:
        """How many tokens it is of, with its opening's."""
        own = self.cached[-1][0].shape[-2]
        return own if self.opening is None else own + self.opening.tokens

    def at(self, layer: int) -> Cached:
        """One layer's keys and values, piece by piece."""
        before = () if self.opening is None else self.opening.at(layer)
        return (*before, self.cached[layer])

    def over(self, base: Beginning, layers: int) -> Beginning:
        """With the lowest layers of another, which were not run again."""
        below = {layer: output for layer, output in base.outputs.items() if layer < layers}
        above = {layer: output for layer, output in self.outputs.items() if layer >= layers}
        return Beginning((*base.cached[:layers], *self.cached[layers:]), below | above)


class Filled(Exception):
    """Not an error: the last layer's keys and values are there, in a cache that is filled for their sake."""


def cache_for(begun: Sequence[Beginning], layers: int, *, fill: bool = False) -> DynamicCache:
    """The cache of a batch whose rows begin so, or of one that begins with nothing; for a single run of the decoder.

    Args:
        begun: every row's.
        layers: how many.
        fill: end the run when the last layer has put something there, by `Filled`.
    """
    cache, room = DynamicCache(), _Room()
    cache.layers += [
        _Layer([one.at(layer) for one in begun], room, fill and layer == layers - 1) for layer in range(layers)
    ]
    return cache


def cached_in(cache: DynamicCache, rows: int) -> list[Cached]:
    """What a run has put into the cache, row by row, behind what the rows began with. In place of lowest layers that
    were not run stands the next one: all that is asked of them is its length."""
    layers: Any = cache.layers
    first = next(layer for layer in layers if layer.is_initialized)
    filled = [layer if layer.is_initialized else first for layer in layers]
    some = [slice(row, row + 1) for row in range(rows)]
    return [tuple((layer.new[0][own], layer.new[1][own]) for layer in filled) for own in some]


def ends_run(cache: Any, layer: int) -> bool:
    """Whether the run of the decoder ends (`Filled`) when this layer has put something there."""
    one: Any = cache.layers[layer] if isinstance(cache, DynamicCache) and layer < len(cache.layers) else None
    return isinstance(one, _Layer) and one.ends


class _Room:
    """Memory for one layer's keys and values at a time: no layer looks at another's."""

    def __init__(self) -> None:
        self._taken: dict[str, Tensor] = {}

    def joined(self, name: str, begun: Sequence[Sequence[Tensor]], new: Tensor) -> Tensor:
        """Every row's beginning, piece by piece, then what is new, [B, heads, T, width]."""
        if not begun:
            return new
        if torch.is_grad_enabled():  # each layer's are needed for the way back
            return torch.cat([torch.cat([torch.cat(list(pieces), -2) for pieces in begun]), new], -2)
        count = sum(piece.shape[-2] for piece in begun[0])
        shape = (*new.shape[:-2], count + new.shape[-2], new.shape[-1])
        whole = self._taken.get(name)
        if whole is None or whole.shape != shape or whole.dtype != new.dtype or whole.device != new.device:
            whole = self._taken[name] = new.new_empty(shape)
        whole[..., count:, :] = new
        for row, pieces in zip(whole, begun, strict=True):
            at = 0
            for piece in pieces:
                row[..., at : at + piece.shape[-2], :] = piece[0]
                at += piece.shape[-2]
        return whole


class _Layer(DynamicLayer):
    """One layer's keys and values.

    Args:
        begun: every row's beginning's, piece by piece; empty where rows begin with nothing.
        room: where they are joined with what follows.
        last: whether the run ends here.

    Raises:
        Filled: it does.
    """

    def __init__(self, begun: Sequence[Cached], room: _Room, last: bool) -> None:
        super().__init__()
        self.new: tuple[Tensor, Tensor] | None = None  # what the run has put there, behind the beginnings
        self._begun = begun
        self._room = room
        self.ends = last

    def get_seq_length(self) -> int:
        if self.is_initialized or not self._begun:
            return super().get_seq_length()
        return sum(keys.shape[-2] for keys, _ in self._begun[0])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        self.lazy_initialization(key_states, value_states)
        self.new = (key_states, value_states)
        self.keys = self._room.joined("keys", [[keys for keys, _ in one] for one in self._begun], key_states)
        self.values = self._room.joined("values", [[values for _, values in one] for one in self._begun], value_states)
        if self.ends:
            raise Filled
        return self.keys, self.values
