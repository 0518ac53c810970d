"""Many questions on one picture in one row: a shared prefix, then blocks that do not see one another.

A row is ``<s>``, the visual tokens, then blocks of question and answer. Blocks come in groups of equal padded length.
A block sees a prefix (``<s>`` and the picture, or ``<s>`` alone for turns without one) and itself, at the positions it
would have on its own, so that training sees exactly what answering one question sees.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, LlavaForConditionalGeneration

NAME = "vlmend_packed"


@dataclass(frozen=True)
class Block:
    """One turn: token ids, how many of them at the end are the answer (end-of-sequence included), and its kind."""

    ids: tuple[int, ...]
    answer: int
    kind: str


@dataclass(frozen=True)
class Part:
    """Blocks that see the same prefix: ``rows[r]`` are those of row r, as many for every row. ``cuts`` says into how
    many groups they are split by length, so that short blocks are not padded to the longest. ``weight`` is that of
    their mean loss."""

    rows: list[list[Block]]
    prefix: int
    cuts: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Group:
    """``blocks`` blocks of ``length`` tokens each that see the first ``prefix`` tokens of the row."""

    blocks: int
    length: int
    prefix: int


@dataclass(frozen=True)
class Packed:
    """R packed rows of S block tokens. ``ids`` int64 [R, S]; ``positions`` int64 [S]; ``targets`` int64 [R, S], the
    next token where it belongs to an answer, else -100; ``part_of`` int64 [S]; ``block_of`` int64 [R, S], an index
    into ``kinds``; ``weights`` one for each part."""

    ids: Tensor
    positions: Tensor
    targets: Tensor
    part_of: Tensor
    block_of: Tensor
    groups: tuple[Group, ...]
    kinds: tuple[str, ...]
    weights: tuple[float, ...]


def pack(parts: Sequence[Part], pad: int) -> Packed:
    """Lay out the blocks of all parts, the shortest of each row first within a part."""
    groups: list[Group] = []
    kinds: list[str] = []
    ids, positions, targets, part_of, block_of = [], [], [], [], []
    for p, part in enumerate(parts):
        rows = [sorted(row, key=lambda b: len(b.ids)) for row in part.rows]
        start = 0
        for cut in part.cuts:
            chosen = [row[start : start + cut] for row in rows]
            start += cut
            length = max(len(b.ids) for row in chosen for b in row)
            groups.append(Group(cut, length, part.prefix))
            tokens, wanted = np.full((len(rows), cut, length), pad), np.full((len(rows), cut, length), -100)
            for r, row in enumerate(chosen):
                for i, block in enumerate(row):
                    n = len(block.ids)
                    tokens[r, i, :n] = block.ids
                    wanted[r, i, n - block.answer - 1 : n - 1] = block.ids[n - block.answer :]
            number = len(kinds) + np.arange(len(rows) * cut).reshape(len(rows), cut, 1)
            kinds += [b.kind for row in chosen for b in row]
            ids.append(tokens.reshape(len(rows), -1))
            targets.append(wanted.reshape(len(rows), -1))
            block_of.append(np.broadcast_to(number, tokens.shape).reshape(len(rows), -1))
            positions.append(np.tile(part.prefix + np.arange(length), cut))
            part_of.append(np.full(cut * length, p))
    wide = [torch.from_numpy(np.concatenate(x, 1)) for x in (ids, targets, block_of)]
    flat = [torch.from_numpy(np.concatenate(x)) for x in (positions, part_of)]
    weights = tuple(part.weight for part in parts)
    return Packed(wide[0], flat[0], wide[1], flat[1], wide[2], tuple(groups), tuple(kinds), weights)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: tuple[int, tuple[Group, ...]] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed row, [R, H, T, D] -> [R, T, H, D]: causal over the prefix; each block over its prefix and
    itself. The keys of other blocks are never formed, which makes it several times cheaper than a masked square."""
    if layout is None:
        raise ValueError("packed attention needs its layout")
    start, groups = layout
    # One split, not a slice a group: the gradient of a slice is a whole tensor of zeros.
    sizes = [start, *(g.blocks * g.length for g in groups)]
    queries, keys, values = (x.split(sizes, 2) for x in (query, key, value))
    out = [nn.functional.scaled_dot_product_attention(queries[0], keys[0], values[0], is_causal=True)]
    scale = query.shape[3] ** -0.5
    for g, *own in zip(groups, queries[1:], keys[1:], values[1:], strict=True):
        q, k, v = (x.unflatten(2, (g.blocks, g.length)) for x in own)
        seen = own[0] @ keys[0][:, :, : g.prefix].mT  # [R, H, blocks * length, prefix]
        later = torch.ones(g.length, g.length, dtype=torch.bool).triu(1)
        inside = (q @ k.mT).masked_fill(later, float("-inf"))  # [R, H, blocks, length, length]
        weights = (torch.cat([seen.unflatten(2, (g.blocks, g.length)), inside], -1) * scale).softmax(-1)
        mixed = (weights[..., : g.prefix].flatten(2, 3) @ values[0][:, :, : g.prefix]).unflatten(2, q.shape[2:4])
        out.append((mixed + weights[..., g.prefix :] @ v).flatten(2, 3))
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


@contextmanager
def packed(decoder: Any) -> Generator[None, None, None]:
    """Within the block a transformers decoder attends by packed rows."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, lambda *_args, **_kwargs: None)
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation(NAME)
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


@dataclass(frozen=True)
class Scored:
    """Per answer token [N]: cross-entropy, whether its argmax is right, the part and the block it belongs to."""

    loss: Tensor
    right: Tensor
    part: Tensor
    block: Tensor


def score(model: LlavaForConditionalGeneration, features: Tensor, packed: Packed, bos: int) -> Scored:
    """Run R rows through projector and decoder and score the answers.

    Args:
        model: within ``packed`` of its decoder.
        features: float [R, V, W], the tower's output for each row's picture.
        packed: the rows' blocks.
        bos: id of the token that begins every row.
    """
    embed = model.get_input_embeddings()
    begin = embed(torch.full((features.shape[0], 1), bos))
    visual = model.model.multi_modal_projector(features)
    inputs = torch.cat([begin, visual, embed(packed.ids)], 1)
    prefix = 1 + visual.shape[1]
    positions = torch.cat([torch.arange(prefix), packed.positions])[None]
    decoder = model.model.language_model
    out = decoder(inputs_embeds=inputs, position_ids=positions, use_cache=False, layout=(prefix, packed.groups))
    answers = packed.targets != -100
    logits, wanted = model.lm_head(out.last_hidden_state[:, prefix:][answers]), packed.targets[answers]
    return Scored(
        nn.functional.cross_entropy(logits, wanted, reduction="none"),
        logits.argmax(-1) == wanted,
        packed.part_of.expand_as(answers)[answers],
        packed.block_of[answers],
    )
