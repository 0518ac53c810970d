"""States that read a memory: cross-attention from each state to stored keys and values, let through by a gate.

For states x [S, D], a memory of L keys and values [L, M] in H heads of width C = M / H, and a gate vector w [D]:

    q = W_query (W_enter norm(x))                          [S, M]
    d = W_leave concat_h softmax(q_h k_h^T / sqrt(C)) v_h  [S, D]
    g = sigmoid( < W_out relu(W_in n) + n, w > )           [S],  n = gatenorm(x)

and g * d is what is added. This is what the Visual Edit Adapter with its Influence Mapper does to visual states (Chen
et al., AAAI 2025, arXiv 2408.09916, section 4) once the edit's own side is worked out: keys and values of its states,
and w.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.edits.named import linear, norm

__all__ = ["attend", "gate_logits"]


def attend(states_SD: Tensor, tensors: Mapping[str, Tensor], *, heads: int) -> Tensor:
    """What is added to states.

    Args:
        states_SD: the states, float32.
        tensors: ``norm``, ``enter``, ``query``, ``leave`` (each ``.weight`` and ``.bias``), ``key`` and ``value``
            [L, M]; and, unless nothing is gated, ``gate`` [D], ``gate_norm``, ``gate_in``, ``gate_out``.
        heads: H.
    """
    normed_SD = norm(states_SD, tensors, "norm")
    query_SM = linear(linear(normed_SD, tensors, "enter"), tensors, "query")
    query_HSC, key_HLC, value_HLC = (
        x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (query_SM, tensors["key"], tensors["value"])
    )
    mixed_HSC = functional.scaled_dot_product_attention(query_HSC[None], key_HLC[None], value_HLC[None])[0]
    delta_SD = linear(mixed_HSC.transpose(0, 1).flatten(1), tensors, "leave")
    if "gate" not in tensors:
        return delta_SD
    return torch.sigmoid(gate_logits(states_SD, tensors))[:, None] * delta_SD


def gate_logits(states_SD: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """How far the gate is open for each state, before the sigmoid: [S]."""
    normed_SD = norm(states_SD, tensors, "gate_norm")
    inner = functional.relu(linear(normed_SD, tensors, "gate_in"))
    return (linear(inner, tensors, "gate_out") + normed_SD) @ tensors["gate"]
