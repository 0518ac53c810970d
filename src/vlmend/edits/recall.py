"""What a prompt is about, as two unit vectors: what is asked, and what is seen of the picture when that is asked.

Of a prompt's states behind a decoder layer, the words' W [K, D] and a picture's X [S, D], with w = norm(W), x = norm(X)
and e the last of w:

    asked = unit( A_out relu(A_in [e, mean w]) )                                              [C]
    q, k, v = W_query e, W_key x, W_value x;    read = concat_h softmax(q_h k_h^T / sqrt(M / H)) v_h
    seen  = unit( S_out relu(S_in [read, mean v]) )                                           [C]

Two prompts agree as far as the lesser of their two cosines: the same question about another picture is another matter,
and so is another question about the same picture. How the weights are learnt: `vlmend.editors.vead_memory_training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.edits.named import linear, norm

__all__ = ["Keys", "agreement", "keys_of"]


@dataclass(frozen=True, eq=False)
class Keys:
    """What prompts are about: unit vectors, [N, C] each."""

    asked_NC: Tensor
    seen_NC: Tensor

    def __getitem__(self, places: slice | Tensor | list[int]) -> Keys:
        return Keys(self.asked_NC[places], self.seen_NC[places])

    def __add__(self, other: Keys) -> Keys:
        return Keys(torch.cat([self.asked_NC, other.asked_NC]), torch.cat([self.seen_NC, other.seen_NC]))


def agreement(one: Keys, other: Keys) -> Tensor:
    """How far each of some prompts agrees with each of others, in -1..1: [N, M]."""
    asked_NM, seen_NM = one.asked_NC @ other.asked_NC.T, one.seen_NC @ other.seen_NC.T
    return torch.minimum(asked_NM, seen_NM)


def keys_of(
    words_NKD: Tensor,
    words_NK: Tensor,
    visual_NSD: Tensor,
    visual_NS: Tensor,
    tensors: Mapping[str, Tensor],
    heads: int,
) -> Keys:
    """The keys of prompts whose states are padded.

    Args:
        words_NKD: states of the words, float32; padded on the left, so that the last is the last of the prompt.
        words_NK: which are no padding.
        visual_NSD: states of the visual tokens.
        visual_NS: which are no padding; at least one of each.
        tensors: ``norm``, ``asked_in``, ``asked_out``, ``query``, ``key``, ``value``, ``seen_in``, ``seen_out`` (each
            ``.weight`` and ``.bias``).
        heads: H.
    """
    words_NKD = norm(words_NKD, tensors, "norm")
    last_ND = words_NKD[:, -1]
    asked = _mapped(torch.cat([last_ND, _mean(words_NKD, words_NK)], -1), tensors, "asked")
    visual_NSD = norm(visual_NSD, tensors, "norm")
    query_NH1C = linear(last_ND, tensors, "query").unflatten(-1, (heads, 1, -1))
    value_NSM = linear(visual_NSD, tensors, "value")
    key_NHSC, value_NHSC = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (linear(visual_NSD, tensors, "key"), value_NSM)
    )
    read_NH1C = functional.scaled_dot_product_attention(
        query_NH1C, key_NHSC, value_NHSC, attn_mask=visual_NS[:, None, None]
    )
    seen = _mapped(torch.cat([read_NH1C.flatten(1), _mean(value_NSM, visual_NS)], -1), tensors, "seen")
    return Keys(asked, seen)


def _mapped(x: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return functional.normalize(
        linear(functional.relu(linear(x, tensors, f"{name}_in")), tensors, f"{name}_out"), dim=-1
    )


def _mean(x_NTD: Tensor, mask_NT: Tensor) -> Tensor:
    return (x_NTD * mask_NT[..., None]).sum(1) / mask_NT.sum(1, keepdim=True)
