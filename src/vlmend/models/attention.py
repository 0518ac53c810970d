"""One decoder layer's attention by itself: called again with other states, looked into, or with its sight blocked.

How a family makes queries, keys and values (biases, norms, rotary embeddings of one or three axes, grouped heads) is
not known here. Its own module is called, and what it hands to transformers' attention interface is taken down.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from vlmend.errors import PartsError
from vlmend.models.parts import Parts
from vlmend.models.trace import Call, first_tensor, told, with_first

__all__ = ["AttentionCall", "Heads", "attention_modules", "blocked"]

_NAME = "vlmend_heads"


@dataclass(frozen=True, eq=False)
class Heads:
    """Queries, keys and values as they meet, after all that is done to each token's own.

    Attributes:
        query_BHTC, key_BGTC, value_BGTC: with H heads of width C in G groups.
        mask: what the module was given: ``None`` (causal), or bool (where to look) or float (added to the scores), each
            [1 or B, 1 or H, T, T].
        scale: of the scores.
    """

    query_BHTC: Tensor
    key_BGTC: Tensor
    value_BGTC: Tensor
    mask: Tensor | None
    scale: float

    def scores(self, query_BHC: Tensor, position: int) -> Tensor:
        """Scores of one query against all keys, as the softmax takes them: float32 [B, H, T], -inf where it is blind.

        Args:
            query_BHC: the query.
            position: where it stands.
        """
        key_BHTC = self._grouped(self.key_BGTC)
        scores_BHT = torch.einsum("bhc,bhtc->bht", query_BHC.float(), key_BHTC.float()) * self.scale
        if self.mask is None:
            return scores_BHT.masked_fill(
                torch.arange(scores_BHT.shape[-1], device=scores_BHT.device) > position, -torch.inf
            )
        row: Tensor = self.mask[..., position, :]
        if row.dtype == torch.bool:
            return scores_BHT.masked_fill(~row, -torch.inf)
        return scores_BHT + row.float()

    @property
    def value_BHTC(self) -> Tensor:
        """Values, one for each head."""
        return self._grouped(self.value_BGTC)

    def _grouped(self, x_BGTC: Tensor) -> Tensor:
        return x_BGTC.repeat_interleave(self.query_BHTC.shape[1] // x_BGTC.shape[1], dim=1)


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of a layer's attention on one row, which can be made again.

    Attributes:
        module: the attention module.
        out: its last projection; ``None`` where it has none of a known name.
        call: what it was called with and gave.
    """

    module: nn.Module
    out: nn.Module | None
    call: Call

    @classmethod
    def of(cls, parts: Parts, layer: int, call: Call) -> AttentionCall:
        """A call of a layer's attention that was captured."""
        try:
            out = _only(parts.modules([layer], ["attn.out"]))
        except PartsError:
            out = None
        return cls(_only(parts.modules([layer], ["attn"])), out, call)

    @property
    def states_1TD(self) -> Tensor:
        """What it read: the states after the layer's own norm."""
        assert self.call.input is not None
        return self.call.input

    @property
    def output_1TD(self) -> Tensor:
        """What it gave."""
        output = first_tensor(self.call.output)
        assert output is not None
        return output

    def again(self, states_BTD: Tensor) -> Tensor:
        """What it makes of other states, in any number of rows, with everything else as it was: [B, T, D]."""
        count = len(states_BTD)
        args, kwargs = _repeated(self.call.args, count), _repeated(self.call.kwargs, count)
        if first_tensor(self.call.args) is not None:
            args = with_first(args, states_BTD)
        else:
            kwargs = with_first(kwargs, states_BTD)
        output = first_tensor(self.module(*args, **kwargs))
        assert output is not None
        return output

    @torch.no_grad()
    def on(self, states_1TD: Tensor) -> AttentionCall:
        """The same call on other states of the row."""
        args, kwargs = self.call.args, self.call.kwargs
        if first_tensor(args) is not None:
            args = with_first(args, states_1TD)
        else:
            kwargs = with_first(kwargs, states_1TD)
        return replace(self, call=Call(self.call.name, args, kwargs, self.module(*args, **kwargs)))

    def heads(self, states_BTD: Tensor) -> Heads | None:
        """What other states become before they meet; ``None`` where the module does not use transformers' interface."""
        with _taken_down(self.module) as seen:
            self.again(states_BTD)
        return seen[0] if len(seen) == 1 else None

    def projected(self, mixed_BHC: Tensor) -> Tensor:
        """The module's output for mixed values of all heads: [B, D].

        Raises:
            PartsError: its last projection is not known.
        """
        if self.out is None:
            raise PartsError(f"{type(self.module).__name__} has no last projection of a known name")
        flat: Tensor = mixed_BHC.flatten(1)
        weight: Any = self.out.weight
        return self.out(flat.to(weight.dtype)).float()


def attention_modules(parts: Parts, layers: tuple[int, ...]) -> dict[int, nn.Module]:
    """The attention module of each layer.

    Raises:
        PartsError: a layer has none of a known name.
    """
    return {layer: _only(parts.modules([layer], ["attn"])) for layer in layers}


@contextmanager
def blocked(parts: Parts, layers: tuple[int, ...], blocked_BTT: Tensor) -> Generator[None, None, None]:
    """Within the block queries of these layers do not see the keys they are blocked from.

    Args:
        parts: the model's.
        layers: which.
        blocked_BTT: bool, for every row of the batch: [B, query, key].

    Raises:
        PartsError: a layer's attention takes its mask in another way.
    """

    def change(kwargs: dict[str, Any]) -> dict[str, Any]:
        if "attention_mask" not in kwargs:
            raise PartsError("a layer's attention is not given its mask by name, so that its sight cannot be blocked")
        return {**kwargs, "attention_mask": _without(kwargs["attention_mask"], blocked_BTT)}

    with told(dict.fromkeys(attention_modules(parts, layers).values(), change)):
        yield


def _without(mask: Any, blocked_BTT: Tensor) -> Tensor:
    """A mask that hides more than it did."""
    length = blocked_BTT.shape[-1]
    if mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=blocked_BTT.device).tril()
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        raise PartsError("this attention implementation has no mask of [batch, head, query, key]: use eager or sdpa")
    blocked_B1TT = blocked_BTT[:, None].to(mask.device)
    if mask.dtype == torch.bool:
        return mask & ~blocked_B1TT
    return mask.masked_fill(blocked_B1TT, torch.finfo(mask.dtype).min)


def _only(modules: dict[str, nn.Module]) -> nn.Module:
    return next(reversed(modules.values()))


def _repeated(value: Any, count: int) -> Any:
    """Arguments for more rows than one: what has one row gets as many."""
    if isinstance(value, Tensor):
        return value.expand(count, *value.shape[1:]) if value.dim() > 1 and len(value) == 1 else value
    if isinstance(value, dict):
        return {name: _repeated(one, count) for name, one in cast(dict[str, Any], value).items()}
    if type(value) in (tuple, list):
        return tuple(_repeated(one, count) for one in value)
    return value


_SEEN: ContextVar[list[Heads]] = ContextVar("seen")


def _take_down(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: Any = None, **_: Any
) -> tuple[Tensor, None]:
    """An attention function in transformers' sense, which only looks: what it returns is empty."""
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    _SEEN.get().append(Heads(query, key, value, attention_mask, scale))
    return query.new_zeros(()).expand(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


AttentionInterface.register(_NAME, _take_down)


@contextmanager
def _taken_down(module: nn.Module) -> Generator[list[Heads], None, None]:
    """Within the block a module's attention does not happen; what would have met is in the list."""
    config: Any = getattr(module, "config", None)
    seen: list[Heads] = []
    if config is None or not hasattr(config, "_attn_implementation_internal"):
        yield seen
        return
    before = config._attn_implementation_internal
    token = _SEEN.set(seen)
    config._attn_implementation_internal = _NAME
    try:
        yield seen
    finally:
        config._attn_implementation_internal = before
        _SEEN.reset(token)
