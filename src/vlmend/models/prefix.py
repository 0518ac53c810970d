"""What rows begin with, up to the last token of their picture, is run once, and each goes on from its keys and values.

The top of a model puts features among the embeddings and makes masks and positions, in every family in its own way. It
is let run on whole rows, up to its call of the decoder, and that call is cut in two: the beginnings, each once, then
the rest of every row. Rows are padded on the right here, where no causal model looks.

A call is run whole where the beginning sees what follows (PaliGemma's pictures are told the question), and where it has
arguments that it is not known how to cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vlmend.models.caches import Beginning, Filled, cache_for, cached_in
from vlmend.models.parts import Parts
from vlmend.models.prepared import Row
from vlmend.models.trace import capture, reaching

__all__ = ["Cut", "beginning", "cut", "name_of", "stump"]

_AT_ONCE = 2048  # tokens of beginnings that are run together: of many more the states fall out of a processor's cache
_OURS = ("use_cache", "past_key_values", "return_dict", "input_ids", "output_attentions", "output_hidden_states")


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


class Cut:
    """A decoder's call for rows padded on the right, cut behind what they begin with.

    Attributes:
        count: how many tokens they begin with.
        ends: in the rest of each row the place of its prompt's last token.
        keep: how many of the last positions predict some row's target.
    """

    def __init__(self, parts: Parts, rows: Sequence[Row], arguments: Mapping[str, Any]) -> None:
        self._parts = parts
        self.arguments = arguments
        self.rows = rows
        self.count = beginning(rows[0])
        self.ends = [len(row.ids_T) - 1 - self.count for row in rows]
        last = max(end + len(row.target_N) for end, row in zip(self.ends, rows, strict=True))
        self.keep = last + 1 - min(self.ends)

    def begin(self, indices: Sequence[int], *, keep: Collection[int] = (), end: int | None = None) -> list[Beginning]:
        """Run what rows with these indices begin with.

        Args:
            indices: as many rows as are run at once.
            keep: the layers whose outputs are kept.
            end: how many layers are run; ``None`` for as much of all as their keys and values take.
        """
        part = {
            name: _CUTTERS[name][0](value, self, indices) if name in _CUTTERS else value
            for name, value in self.arguments.items()
        }
        cache = cache_for([], len(self._parts.layers) if end is None else end, fill=end is None)
        with capture({str(layer): self._parts.layers[layer] for layer in keep}) as calls, suppress(Filled):
            self._run(part, cache, end)
        outputs = {int(call.name): call.output for call in calls}
        return [
            Beginning(cached, {layer: output[index : index + 1] for layer, output in outputs.items()})
            for index, cached in enumerate(cached_in(cache, len(indices)))
        ]

    def at_once(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """Rows whose beginnings are run together."""
        most = max(1, _AT_ONCE // self.count)
        return [indices[start : start + most] for start in range(0, len(indices), most)]

    def go_on(self, begun: Sequence[Beginning], *, end: int | None = None) -> Tensor:
        """Run the rest of every row, from what it begins with.

        Returns:
            [B, T - count, D]: the last states, or those that the last of ``end`` layers gives.
        """
        part = {
            name: _CUTTERS[name][1](value, self) if name in _CUTTERS else value
            for name, value in self.arguments.items()
        }
        cache = cache_for(begun if self.count else [], len(self._parts.layers) if end is None else end)
        return self._run(part, cache, end)

    def logits(self, begun: Sequence[Beginning]) -> Tensor:
        """As `go_on`: the logits of the last positions, [B, keep, vocabulary]."""
        return self._parts.head(self.go_on(begun)[:, -self.keep :])

    def predicting(self, logits_BKV: Tensor) -> list[Tensor]:
        """Of these every row's, [N, vocabulary], where its target is predicted."""
        low = min(self.ends)
        return [
            logits_KV[end - low : end - low + len(row.target_N)]
            for row, logits_KV, end in zip(self.rows, logits_BKV, self.ends, strict=True)
        ]

    def _run(self, part: Mapping[str, Any], cache: DynamicCache, end: int | None) -> Tensor:
        if end is None:
            return self._parts.decoder(**part, past_key_values=cache, use_cache=True).last_hidden_state
        following = (*self._parts.layers, self._parts.norm)[end]
        with capture({"layer": self._parts.layers[end - 1]}) as calls, reaching(following):
            self._parts.decoder(**part, past_key_values=cache, use_cache=True)
        return calls[0].output


def cut(parts: Parts, rows: Sequence[Row], run: Callable[[], Any]) -> Cut | None:
    """Cut the decoder's call.

    Args:
        parts: the model's.
        rows: of one length of `beginning`.
        run: runs the model on the rows, padded on the right with their targets; it is stopped at the decoder.

    Returns:
        ``None`` if the call cannot be cut.
    """
    with reaching(parts.decoder) as calls:
        run()
    args, arguments = calls[0]
    given = {name: value for name, value in arguments.items() if value is not None and name not in _OURS}
    tensors = {name for name, value in given.items() if _holds_tensors(value)}
    known = not args and "inputs_embeds" in given and tensors <= _CUTTERS.keys()
    return (
        Cut(parts, rows, given) if known and not _sees_ahead(given.get("attention_mask"), beginning(rows[0])) else None
    )


def _first_mask(mask: Any, call: Cut, indices: Sequence[int]) -> Any:
    """Of a mask [B, T], or [B or 1, 1, T, T], or several of them by name."""
    if isinstance(mask, Mapping):
        return {name: _first_mask(one, call, indices) for name, one in mask.items()}
    if mask is None:
        return None
    some = mask[indices] if len(mask) == len(call.rows) else mask
    return some[:, : call.count] if mask.dim() == 2 else some[..., : call.count, : call.count]


def _later_mask(mask: Any, call: Cut) -> Any:
    if isinstance(mask, Mapping):
        return {name: _later_mask(one, call) for name, one in mask.items()}
    return mask if mask is None or mask.dim() == 2 else mask[..., call.count :, :]


def _first_positions(positions: Tensor, call: Cut, indices: Sequence[int]) -> Tensor:
    """Of positions [B, T], [1, T] or [axes, B, T]."""
    of_rows = positions.shape[-2] == len(call.rows)
    return (positions[..., indices, :] if of_rows else positions)[..., : call.count]


def _first_levels(levels: Sequence[Tensor], call: Cut, indices: Sequence[int]) -> list[Tensor]:
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
