"""A small causal decoder as a function of its tensors, over states that are put together by whoever calls it.

For states x [N, T, M], each layer with h = norm(x):

    x  <-  x + W_out concat_h softmax(q_h k_h^T / sqrt(M / H)) v_h,    q, k, v = W_query h, W_key h, W_value h
    x  <-  x + W_down gelu(W_up norm'(x))

A state sees those before it and itself. Places are told by what `positions` adds, so that pieces can be counted each
for itself: the third token of one thing is then as easily found as that of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.edits.named import linear, norm, under

__all__ = ["decode", "padded", "positions"]


def decode(states_NTM: Tensor, real_NT: Tensor, tensors: Mapping[str, Tensor], heads: int) -> Tensor:
    """The states behind the last layer, normed: [N, T, M].

    Args:
        states_NTM: what enters the first layer.
        real_NT: which states are no padding.
        tensors: for each layer, from "0." on, ``norm``, ``query``, ``key``, ``value``, ``out``, ``inner_norm``, ``up``
            and ``down``, and a last ``norm`` (each ``.weight`` and ``.bias``).
        heads: H.
    """
    places = torch.arange(states_NTM.shape[1], device=states_NTM.device)
    before_TT = places[:, None] >= places
    itself_TT = places[:, None] == places  # padding must see something
    seen_N1TT = (before_TT & (real_NT[:, None, :] | itself_TT))[:, None]
    layer = 0
    while f"{layer}.query.weight" in tensors:
        mine = under(f"{layer}.", tensors)
        normed_NTM = norm(states_NTM, mine, "norm")
        query, key, value = (
            linear(normed_NTM, mine, name).unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen_N1TT)
        states_NTM = states_NTM + linear(mixed.transpose(1, 2).flatten(2), mine, "out")
        inner = functional.gelu(linear(norm(states_NTM, mine, "inner_norm"), mine, "up"))
        states_NTM = states_NTM + linear(inner, mine, "down")
        layer += 1
    return norm(states_NTM, tensors, "norm")


def positions(count: int, like_M: Tensor) -> Tensor:
    """Sines and cosines of the first places, in the width, type and device of a vector: [count, M]."""
    width = like_M.shape[-1]
    places_T1 = torch.arange(count, device=like_M.device, dtype=like_M.dtype)[:, None]
    steps = torch.arange(0, width, 2, device=like_M.device, dtype=like_M.dtype)
    angles = places_T1 / 10000 ** (steps / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


def padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """States padded on the left, [N, T, M], and which are no padding, [N, T]."""
    length = max(map(len, states))
    places = torch.arange(length, device=states[0].device)
    together = torch.stack([functional.pad(some, (0, 0, length - len(some), 0)) for some in states])
    return together, torch.stack([places >= length - len(some) for some in states])
