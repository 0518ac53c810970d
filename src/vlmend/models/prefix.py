"""Several rows about one picture: what they begin with is run once, and each goes on from its keys and values.

The top of a model puts features among the embeddings and makes masks and positions, in every family in its own way. It
is let run on whole rows, up to its call of the decoder, and that call is cut in two: the prefix once, then the rest of
every row. Rows are padded on the right here, where no causal model looks.

A call is run whole where the prefix sees what follows (PaliGemma's pictures are told the question), and where it has
arguments that it is not known how to cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vlmend.models.parts import Parts
from vlmend.models.prepared import Row
from vlmend.models.trace import capture, reaching

__all__ = ["beginning", "run_in_two", "states_in_two"]

_OURS = ("use_cache", "past_key_values", "return_dict", "input_ids", "output_attentions", "output_hidden_states")


def beginning(rows: Sequence[Row]) -> int:
    """How many tokens all rows begin with; 0 if they are not about one picture, or that is not among them.

    The last token of a prompt, which predicts the answer, is never counted.
    """
    first = rows[0]
    if first.picture is None or any(row.picture != first.picture for row in rows):
        return 0
    length = min(len(row.ids_T) for row in rows) - 1
    same_T = torch.stack([row.ids_T[:length] == first.ids_T[:length] for row in rows]).all(0)
    count = int(same_T.long().cumprod(0).sum())
    return count if count > int(first.visual_T.nonzero().max()) else 0


def states_in_two(
    parts: Parts, rows: Sequence[Row], count: int, run: Callable[[], Any], layer: int
) -> list[Tensor] | None:
    """Every row's states behind a layer, prompt and target, [T, D]; nothing above the layer is run.

    The arguments are those of `run_in_two`, and ``None`` means the same.
    """
    with reaching(parts.decoder) as calls:
        run()
    args, arguments = calls[0]
    cut = None if args else _cut(arguments, int(rows[0].visual_T.sum()), count)
    if cut is None:
        return None
    cache = DynamicCache()
    following = (*parts.layers, parts.norm)[layer + 1]
    found: list[Tensor] = []
    for part in cut:
        with capture({"layer": parts.layers[layer]}) as outputs, reaching(following):
            parts.decoder(**part, past_key_values=cache, use_cache=True)
        found.append(outputs[0].output)
        if part is cut[0]:
            cache.batch_repeat_interleave(len(rows))
    (before_TD,), after_BTD = found
    lengths = [len(row.ids_T) + len(row.target_N) - count for row in rows]
    return [torch.cat([before_TD, after_BTD[index, :length]]) for index, length in enumerate(lengths)]


def run_in_two(parts: Parts, rows: Sequence[Row], count: int, run: Callable[[], Any]) -> list[Tensor] | None:
    """Every row's logits at the positions that predict its target, [N, vocabulary].

    Args:
        parts: the model's.
        rows: about one picture.
        count: how many tokens they have in common (`beginning`).
        run: runs the model on the rows, padded on the right with their targets; it is stopped at the decoder.

    Returns:
        the logits; ``None`` if the decoder's call cannot be cut.
    """
    with reaching(parts.decoder) as calls:
        run()
    args, arguments = calls[0]
    cut = None if args else _cut(arguments, int(rows[0].visual_T.sum()), count)
    if cut is None:
        return None
    before, after = cut
    cache = DynamicCache()
    parts.decoder(**before, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(rows))
    states_BTD = parts.decoder(**after, past_key_values=cache, use_cache=True).last_hidden_state
    spans = [(len(row.ids_T) - 1 - count, len(row.target_N)) for row in rows]
    return [parts.head(states_BTD[index, start : start + length]) for index, (start, length) in enumerate(spans)]


def _cut(arguments: Mapping[str, Any], visual: int, count: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Cut a decoder's call: its first row's first ``count`` positions, and the rest of every row."""
    given = {name: value for name, value in arguments.items() if value is not None and name not in _OURS}
    cutters = {
        "inputs_embeds": lambda embeds_BTD: (embeds_BTD[:1, :count], embeds_BTD[:, count:]),
        "attention_mask": lambda mask: _cut_mask(mask, count),
        "position_ids": lambda positions: _cut_positions(positions, len(given["inputs_embeds"]), count),
        "visual_pos_masks": lambda mask_BT: (mask_BT[:1, :count], None),
        "deepstack_visual_embeds": lambda levels: ([level[:visual] for level in levels], None),
    }
    tensors = {name for name, value in given.items() if _holds_tensors(value)}
    if "inputs_embeds" not in given or not tensors <= cutters.keys() or _sees_ahead(given.get("attention_mask"), count):
        return None
    pairs = {name: cutters[name](value) if name in tensors else (value, value) for name, value in given.items()}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    return any(map(_holds_tensors, value)) if isinstance(value, list | tuple) else isinstance(value, Tensor)


def _sees_ahead(mask: Any, count: int) -> bool:
    """Whether a mask that is given for every pair of positions lets the prefix look at what follows."""
    if isinstance(mask, Mapping):
        return any(_sees_ahead(one, count) for one in mask.values())
    if mask is None or mask.dim() == 2:
        return False
    ahead = mask[..., :count, count:]
    return bool(ahead.any() if ahead.dtype == torch.bool else (ahead > torch.finfo(ahead.dtype).min / 2).any())


def _cut_mask(mask: Any, count: int) -> tuple[Any, Any]:
    """A mask [B, T], or [B, 1, T, T], or several of them by name."""
    if isinstance(mask, Mapping):
        pairs = {name: _cut_mask(one, count) for name, one in mask.items()}
        return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}
    if mask is None:
        return None, None
    return (mask[:1, :count], mask) if mask.dim() == 2 else (mask[:1, ..., :count, :count], mask[..., count:, :])


def _cut_positions(positions: Tensor, rows: int, count: int) -> tuple[Tensor, Tensor]:
    """Positions [B, T], [1, T] or [axes, B, T]."""
    first = positions[..., :1, :count] if positions.shape[-2] == rows else positions[..., :count]
    return first, positions[..., count:]
