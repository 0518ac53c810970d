"""Many questions on one picture in one row: a shared prefix, then blocks that do not see one another.

A row is ``<s>``, the visual tokens, then blocks of question and answer; where a model has its pictures first of all, it
is the visual tokens and every block begins with ``<s>``. Blocks come in groups of equal padded length. A block sees a
prefix (what stands before the blocks, or what of it is not the picture) and itself, at the positions it would have on
its own, so that training sees exactly what answering one question sees.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from vlmend.world.train.backbones import Built

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
    """R packed rows of S block tokens, and the N tokens of their answers.

    Attributes:
        ids: int64 [R, S].
        positions: int64 [S].
        at: int64 [N], where in the flattened rows the next token belongs to an answer.
        targets: int64 [N], that token.
        part_of: int64 [N].
        block_of: int64 [N], an index into ``kinds``.
        groups: the blocks, in their order.
        kinds: of each block.
        weights: of each part.
    """

    ids: Tensor
    positions: Tensor
    at: Tensor
    targets: Tensor
    part_of: Tensor
    block_of: Tensor
    groups: tuple[Group, ...]
    kinds: tuple[str, ...]
    weights: tuple[float, ...]

    def to(self, device: str) -> Packed:
        """The same on a device."""
        tensors = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


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
    rows, wanted, numbers = (torch.from_numpy(np.concatenate(x, 1)) for x in (ids, targets, block_of))
    places, parts_of = (torch.from_numpy(np.concatenate(x)) for x in (positions, part_of))
    answers = wanted != -100
    at = answers.flatten().nonzero()[:, 0]
    weights = tuple(part.weight for part in parts)
    answered = (wanted[answers], parts_of.expand_as(answers)[answers], numbers[answers])
    return Packed(rows, places, at, *answered, tuple(groups), tuple(kinds), weights)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: tuple[int, tuple[Group, ...]] | None = None,
    scaling: float | None = None,
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
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    out = [nn.functional.scaled_dot_product_attention(queries[0], keys[0], values[0], is_causal=True, scale=scale)]
    for g, *own in zip(groups, queries[1:], keys[1:], values[1:], strict=True):
        q, k, v = (x.unflatten(2, (g.blocks, g.length)) for x in own)
        seen = own[0] @ keys[0][:, :, : g.prefix].mT  # [R, H, blocks * length, prefix]
        later = torch.ones(g.length, g.length, dtype=torch.bool, device=query.device).triu(1)
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

    def means(self, parts: int) -> Tensor:
        """The mean loss of each part, [parts]."""
        zeros = self.loss.new_zeros(parts)
        return zeros.index_add(0, self.part, self.loss) / zeros.index_add(0, self.part, torch.ones_like(self.loss))


def score(built: Built, features: Tensor, packed: Packed, bos: int) -> Scored:
    """Run R rows through projector and decoder and score the answers.

    Args:
        built: within ``packed`` of its decoder.
        features: float [R, V, W], what the projector is given for each row's picture.
        packed: the rows' blocks, on the features' device.
        bos: id of the token that begins every row.
    """
    visual, words = built.projector(features), built.embed(packed.ids)
    begin = [built.embed(torch.full((len(features), 1), bos, device=features.device))] if built.opened else []
    inputs = torch.cat([*begin, visual, words], 1)
    prefix = inputs.shape[1] - words.shape[1]
    positions = torch.cat([torch.arange(prefix, device=features.device), packed.positions])[None]
    out = built.decoder(inputs_embeds=inputs, position_ids=positions, use_cache=False, layout=(prefix, packed.groups))
    logits = built.head(out.last_hidden_state[:, prefix:].flatten(0, 1)[packed.at])
    return Scored(
        nn.functional.cross_entropy(logits, packed.targets, reduction="none"),
        logits.argmax(-1) == packed.targets,
        packed.part_of,
        packed.block_of,
    )
