"""What rows begin with, up to the last token of their picture, is run once, and each goes on from its keys and values.

The top of a model puts features among the embeddings and makes masks and positions, in every family in its own way. It
is let run on whole rows, up to its call of the decoder, and that call is cut in two: the beginnings, each once, then
the rest of every row. Rows are padded on the right here, where no causal model looks.

A call is run whole where the beginning sees what follows (PaliGemma's pictures are told the question), and where it has
arguments that it is not known how to cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vlmend.models.caches import Beginning, beginnings_of, cache_for
from vlmend.models.parts import Parts
from vlmend.models.prepared import Row
from vlmend.models.trace import capture, reaching

__all__ = ["Beginnings", "begin", "beginning", "name_of", "states_from_beginnings", "stump"]

_OURS = ("use_cache", "past_key_values", "return_dict", "input_ids", "output_attentions", "output_hidden_states")
_AT_ONCE = 1024  # tokens of beginnings that are run together: more fall out of a processor's cache

Beginnings = dict[Any, Beginning]


def beginning(row: Row) -> int:
    """How many tokens a row has up to the last of its picture; 0 without one, or where no word follows it."""
    if row.picture is None:
        return 0
    count = int(row.visual_T.nonzero().max()) + 1
    return count if count < len(row.ids_T) else 0


def name_of(row: Row, count: int) -> tuple[Any, ...]:
    """Equal for rows that begin with the same tokens and picture."""
    return (row.picture, tuple(row.ids_T[:count].tolist()))


def stump(row: Row, count: int) -> Row:
    """Only what a row begins with."""
    return replace(row, ids_T=row.ids_T[:count], visual_T=row.visual_T[:count], target_N=row.target_N[:0])


@dataclass(frozen=True, eq=False)
class _Call:
    """A decoder's call for rows padded on the right."""

    arguments: Mapping[str, Any]
    rows: Sequence[Row]
    count: int


def begin(
    parts: Parts,
    rows: Sequence[Row],
    names: Sequence[Any],
    known: Beginnings,
    run: Callable[[], Any],
    acting: Callable[[list[int]], AbstractContextManager[None]],
) -> Callable[[], Tensor] | None:
    """Run what rows begin with where it is not known yet.

    Args:
        parts: the model's.
        rows: of one length of `beginning`.
        names: each row's beginning's; rows of equal names share it.
        known: name -> beginning; new ones are added.
        run: runs the model on the rows, padded on the right with their targets; it is stopped at the decoder.
        acting: in force while the beginnings of rows with these indices are run.

    Returns:
        what runs the rest: the last states of its tokens, [B, T - count, D]; ``None`` if the call cannot be cut.
    """
    with reaching(parts.decoder) as calls:
        run()
    args, arguments = calls[0]
    given = {name: value for name, value in arguments.items() if value is not None and name not in _OURS}
    call = _Call(given, rows, beginning(rows[0]))
    if args or not _can_be_cut(call):
        return None
    if call.count:
        first = {name: names.index(name) for name in dict.fromkeys(names) if name not in known}
        most = max(1, _AT_ONCE // call.count)
        for start in range(0, len(first), most):
            some = dict(list(first.items())[start : start + most])
            with acting(list(some.values())):
                known.update(zip(some, _begun(parts, call, list(some.values())), strict=True))
    rest = _rest(call)

    def go_on() -> Tensor:
        cache = cache_for([known[name] for name in names] if call.count else [], len(parts.layers))
        return parts.decoder(**rest, past_key_values=cache, use_cache=True).last_hidden_state

    return go_on


def _begun(parts: Parts, call: _Call, indices: list[int]) -> list[Beginning]:
    """What rows with these indices begin with. The last layer's feed-forward part adds nothing to that."""
    cache, last = cache_for([], len(parts.layers)), parts.feed_forward(len(parts.layers) - 1)
    with nullcontext() if last is None else reaching(last):
        parts.decoder(**_beginnings(call, indices), past_key_values=cache, use_cache=True)
    found = beginnings_of(cache, len(indices))
    if found is None:  # there the feed-forward part is run before, or beside, the attention
        cache = cache_for([], len(parts.layers))
        parts.decoder(**_beginnings(call, indices), past_key_values=cache, use_cache=True)
        found = beginnings_of(cache, len(indices))
    assert found is not None
    return found


def states_from_beginnings(
    parts: Parts, rows: Sequence[Row], names: Sequence[Any], run: Callable[[], Any], layer: int
) -> list[Tensor] | None:
    """Every row's states behind a layer, prompt and target, [T, D]; nothing above the layer is run.

    Arguments are as those of `begin`, and ``None`` means the same.
    """
    with reaching(parts.decoder) as calls:
        run()
    args, arguments = calls[0]
    given = {name: value for name, value in arguments.items() if value is not None and name not in _OURS}
    call = _Call(given, rows, beginning(rows[0]))
    if args or not call.count or not _can_be_cut(call):
        return None

    def behind(part: Mapping[str, Any], cache: DynamicCache) -> Tensor:
        following = (*parts.layers, parts.norm)[layer + 1]
        with capture({"layer": parts.layers[layer]}) as outputs, reaching(following):
            parts.decoder(**part, past_key_values=cache, use_cache=True)
        return outputs[0].output

    distinct = list(dict.fromkeys(names))
    places = [distinct.index(name) for name in names]
    begun = cache_for([], layer + 1)
    before_PTD = behind(_beginnings(call, [names.index(name) for name in distinct]), begun)
    each_begins = beginnings_of(begun, len(distinct))
    assert each_begins is not None
    cache = cache_for([each_begins[place] for place in places], layer + 1)
    after_BTD = behind(_rest(call), cache)
    lengths = [len(row.ids_T) + len(row.target_N) - call.count for row in rows]
    each = zip(places, after_BTD, lengths, strict=True)
    return [torch.cat([before_PTD[place], after_TD[:length]]) for place, after_TD, length in each]


def _can_be_cut(call: _Call) -> bool:
    given = call.arguments
    tensors = {name for name, value in given.items() if _holds_tensors(value)}
    known = tensors <= _CUTTERS.keys()
    return "inputs_embeds" in given and known and not _sees_ahead(given.get("attention_mask"), call.count)


def _beginnings(call: _Call, indices: list[int]) -> dict[str, Any]:
    """The arguments for some rows' first tokens."""
    return {
        name: _CUTTERS[name][0](value, call, indices) if name in _CUTTERS else value
        for name, value in call.arguments.items()
    }


def _rest(call: _Call) -> dict[str, Any]:
    """The arguments for what follows in every row."""
    return {
        name: _CUTTERS[name][1](value, call) if name in _CUTTERS else value for name, value in call.arguments.items()
    }


def _first_mask(mask: Any, call: _Call, indices: list[int]) -> Any:
    """Of a mask [B, T], or [B or 1, 1, T, T], or several of them by name."""
    if isinstance(mask, Mapping):
        return {name: _first_mask(one, call, indices) for name, one in mask.items()}
    if mask is None:
        return None
    some = mask[indices] if len(mask) == len(call.rows) else mask
    return some[:, : call.count] if mask.dim() == 2 else some[..., : call.count, : call.count]


def _later_mask(mask: Any, call: _Call) -> Any:
    if isinstance(mask, Mapping):
        return {name: _later_mask(one, call) for name, one in mask.items()}
    return mask if mask is None or mask.dim() == 2 else mask[..., call.count :, :]


def _first_positions(positions: Tensor, call: _Call, indices: list[int]) -> Tensor:
    """Of positions [B, T], [1, T] or [axes, B, T]."""
    of_rows = positions.shape[-2] == len(call.rows)
    return (positions[..., indices, :] if of_rows else positions)[..., : call.count]


def _first_levels(levels: Sequence[Tensor], call: _Call, indices: list[int]) -> list[Tensor]:
    """Of features for the visual tokens of all rows, one after another."""
    counts = [int(row.visual_T.sum()) for row in call.rows]
    split = [level.split(counts) for level in levels]
    return [torch.cat([pieces[index] for index in indices]) for pieces in split]


def _nothing(*_: Any) -> None:
    return None


_CUTTERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "inputs_embeds": (lambda x_BTD, call, some: x_BTD[some, : call.count], lambda x_BTD, call: x_BTD[:, call.count :]),
    "attention_mask": (_first_mask, _later_mask),
    "position_ids": (_first_positions, lambda positions, call: positions[..., call.count :]),
    "visual_pos_masks": (lambda mask_BT, call, some: mask_BT[some, : call.count], _nothing),
    "deepstack_visual_embeds": (_first_levels, _nothing),
}
"""How an argument is cut for beginnings, and for what follows."""


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    return any(map(_holds_tensors, value)) if isinstance(value, list | tuple) else isinstance(value, Tensor)


def _sees_ahead(mask: Any, count: int) -> bool:
    """Whether a mask that is given for every pair of positions lets the beginning look at what follows."""
    if isinstance(mask, Mapping):
        return any(_sees_ahead(one, count) for one in mask.values())
    if mask is None or mask.dim() == 2:
        return False
    ahead = mask[..., :count, count:]
    return bool(ahead.any() if ahead.dtype == torch.bool else (ahead > torch.finfo(ahead.dtype).min / 2).any())
