"""What rows begin with, up to the last token of their picture, is run once, and each goes on from its keys and values.

A text that edits put in front of all, pictures too (`telling.py`), is an opening: it is the same for rows with other
pictures and with none, is run once for all of them, and what they begin with goes on from it.

The top of a model puts features among the embeddings and makes masks and positions, in every family in its own way. It
is let run on whole rows, up to its call of the decoder, and that call is cut in two: the beginnings, each once, then
the rest of every row. Rows are padded on the right here, where no causal model looks.

A call is run whole where the beginning sees what follows (PaliGemma's pictures are told the question), and where it has
arguments that it is not known how to cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vlmend.models.caches import Beginning, Filled, cache_for, cached_in
from vlmend.models.parts import Parts
from vlmend.models.prepared import Row
from vlmend.models.trace import capture, reaching, told

__all__ = ["Cut", "beginning", "cut", "going_on", "name_of", "stump"]

_AT_ONCE = 2048  # tokens of beginnings that are run together: of many more the states fall out of a processor's cache
_OURS = ("use_cache", "past_key_values", "return_dict", "input_ids", "output_attentions", "output_hidden_states")


_Some = Sequence[int] | slice
"""Some of the rows."""


def beginning(row: Row) -> int:
    """How many tokens a row has up to the last of its picture, or without one those of its opening; 0 where it has
    neither, where no word follows, or where pictures have no tokens."""
    if row.picture is None:
        return row.opened
    if not row.visual_T.any():  # layers look at it
        return 0
    count = int(row.visual_T.nonzero().max()) + 1
    return count if count < len(row.ids_T) else 0


def name_of(row: Row, count: int) -> tuple[Any, ...]:
    """Equal for rows that begin with the same tokens and picture."""
    return (row.picture, tuple(row.ids_T[:count].tolist()))


def stump(row: Row, count: int, start: int = 0) -> Row:
    """Only what a row begins with, or what of that stands behind its first tokens."""
    some = slice(start, count)
    return replace(row, ids_T=row.ids_T[some], visual_T=row.visual_T[some], target_N=row.target_N[:0])


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

    def begin(
        self,
        indices: Sequence[int],
        *,
        keep: Collection[int] = (),
        end: int | None = None,
        openings: Sequence[Beginning] = (),
        count: int | None = None,
    ) -> list[Beginning]:
        """Run what rows with these indices begin with.

        Args:
            indices: as many rows as are run at once.
            keep: the layers whose outputs are kept.
            end: how many layers are run; ``None`` for as much of all as their keys and values take.
            openings: what each of them goes on from, all equally long; empty to begin with nothing.
            count: how many tokens; ``None`` for all that they begin with.
        """
        tokens = slice(openings[0].tokens if openings else 0, self.count if count is None else count)
        part = self._part(indices, tokens)
        cache = cache_for(openings, len(self._parts.layers) if end is None else end, fill=end is None)
        with capture({str(layer): self._parts.layers[layer] for layer in keep}) as calls, suppress(Filled):
            self._run(part, cache, end)
        outputs = {int(call.name): call.output for call in calls}
        return [
            Beginning(cached, {layer: output[index : index + 1] for layer, output in outputs.items()}, opening)
            for index, (cached, opening) in enumerate(
                zip(cached_in(cache, len(indices)), openings or [None] * len(indices), strict=True)
            )
        ]

    def _part(self, indices: _Some, tokens: slice) -> dict[str, Any]:
        """The arguments for some of the rows and of their tokens."""
        return {
            name: _CUTTERS[name](value, self.rows, indices, tokens) if name in _CUTTERS else value
            for name, value in self.arguments.items()
        }

    def at_once(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """Rows whose beginnings are run together."""
        most = max(1, _AT_ONCE // self.count)
        return [indices[start : start + most] for start in range(0, len(indices), most)]

    def go_on(self, begun: Sequence[Beginning], *, end: int | None = None) -> Tensor:
        """Run the rest of every row, from what it begins with.

        Returns:
            [B, T - count, D]: the last states, or those that the last of ``end`` layers gives.
        """
        part = self._part(slice(None), slice(self.count, None))
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


@contextmanager
def going_on(parts: Parts, rows: Sequence[Row], openings: Sequence[Beginning]) -> Generator[None, None, None]:
    """Within the block the decoder's first call, of rows without padding, goes on from their openings, equally long,
    which are put into the cache that it is given; the call is left whole where that cannot be done."""
    first = True

    def change(arguments: dict[str, Any]) -> dict[str, Any]:
        nonlocal first
        cache: Any = arguments.get("past_key_values")
        given = {name: value for name, value in arguments.items() if value is not None and name not in _OURS}
        if not first or not _takes(cache) or not _can_be_cut(given):
            return arguments
        first = False
        tokens = slice(openings[0].tokens, None)
        part = {
            name: _CUTTERS[name](value, rows, slice(None), tokens) if name in _CUTTERS else value
            for name, value in given.items()
        }
        for layer in range(len(parts.layers)):
            keys, values = zip(*(one.at(layer)[0] for one in openings), strict=True)
            cache.update(torch.cat(keys), torch.cat(values), layer)
        return {**arguments, **part}

    with told({parts.decoder: change}):
        yield


def _takes(cache: Any) -> bool:
    """Whether a cache is empty and keeps all that is put into it."""
    plain = isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
    return plain and cache.get_seq_length() == 0


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
    counts = {beginning(rows[0]), *(row.opened for row in rows)}
    mask = given.get("attention_mask")
    seen = any(_sees_ahead(mask, count) for count in counts if count)
    return Cut(parts, rows, given) if not args and _can_be_cut(given) and not seen else None


def _can_be_cut(arguments: Mapping[str, Any]) -> bool:
    tensors = {name for name, value in arguments.items() if _holds_tensors(value)}
    return "inputs_embeds" in arguments and tensors <= _CUTTERS.keys()


def _states(states_BTD: Tensor, _: Sequence[Row], some: _Some, tokens: slice) -> Tensor:
    return states_BTD[some, tokens]


def _mask(mask: Any, rows: Sequence[Row], some: _Some, tokens: slice) -> Any:
    """Of a mask [B, T], or [B or 1, 1, T, T], or several of them by name: with all that the tokens may look at."""
    if isinstance(mask, Mapping):
        return {name: _mask(one, rows, some, tokens) for name, one in mask.items()}
    if mask is None:
        return None
    mine = mask[some] if len(mask) == len(rows) else mask
    return mine[:, : tokens.stop] if mask.dim() == 2 else mine[..., tokens, : tokens.stop]


def _positions(positions: Tensor, rows: Sequence[Row], some: _Some, tokens: slice) -> Tensor:
    """Of positions [B, T], [1, T] or [axes, B, T]."""
    of_rows = positions.shape[-2] == len(rows)
    return (positions[..., some, :] if of_rows else positions)[..., tokens]


def _visual(mask_BT: Tensor, _: Sequence[Row], some: _Some, tokens: slice) -> Tensor | None:
    """Where visual tokens are; ``None`` if there are none."""
    part = mask_BT[some, tokens]
    return part if part.any() else None


def _levels(levels: Sequence[Tensor], rows: Sequence[Row], some: _Some, tokens: slice) -> list[Tensor] | None:
    """Of features for the visual tokens of all rows, one after another; a row's are cut all or none."""
    indices = range(len(rows))[some] if isinstance(some, slice) else some
    if not any(bool(rows[index].visual_T[tokens].any()) for index in indices):
        return None
    counts = [int(row.visual_T.sum()) for row in rows]
    split = [level.split(counts) for level in levels]
    return [torch.cat([pieces[index] for index in indices]) for pieces in split]


_CUTTERS: dict[str, Callable[[Any, Sequence[Row], _Some, slice], Any]] = {
    "inputs_embeds": _states,
    "attention_mask": _mask,
    "position_ids": _positions,
    "visual_pos_masks": _visual,
    "deepstack_visual_embeds": _levels,
}
"""How an argument is cut for some rows and some of their tokens."""


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
