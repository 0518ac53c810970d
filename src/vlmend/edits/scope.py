"""Whether a query is in an edit's scope: out of its question and its pictures, never of an answer.

Both the edit's request and the query are `Query` values, which have no answer. The question's tokens, by the model's
own embeddings E [V, W], go through a small decoder, what is seen through a connector of its own:

    w = decode(W_enter E[words] / unit + positions),    x = W_see norm(visual)        (nothing seen: a learnt vector)

and `vlmend.edits.recall` makes two unit vectors of them, whose agreement a = min(cos asked, cos seen) gives

    s = sigmoid(sharpness (a - middle))

This stands where SERAC has exp(-|e - e'|^2) of two sentence embeddings (Mitchell et al., ICML 2022, arXiv 2206.06520,
section 3.2), which of unit vectors is a function of the cosine too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.edits.decoder import decode, padded, positions
from vlmend.edits.named import linear, norm, under
from vlmend.edits.recall import Keys, agreement, keys_of
from vlmend.models.mixing import Query

__all__ = ["embedded", "keys_for", "leads", "seen"]


def keys_for(queries: Sequence[Query], tensors: Mapping[str, Tensor], heads: int) -> Keys:
    """What queries are about.

    Args:
        queries: which.
        tensors: ``unit``, ``enter``, ``see_norm``, ``see``, ``nothing`` [M], the decoder's under ``words.``, the
            reader's under ``reader.``, and for `leads` ``sharpness`` and ``middle``.
        heads: of both.
    """
    words = [_words(query, tensors) for query in queries]
    words_NKM, words_NK = padded(words)
    words_NKM = decode(words_NKM, words_NK, under("words.", tensors), heads)
    visual = [seen(query, tensors) for query in queries]
    blank_1M = tensors["nothing"][None]
    visual = [some if len(some) else blank_1M for some in visual]
    return keys_of(words_NKM, words_NK, *padded(visual), under("reader.", tensors), heads)


def leads(one: Keys, other: Keys, tensors: Mapping[str, Tensor]) -> Tensor:
    """How far queries are in the scope of edits, before the sigmoid: [N, M]."""
    return tensors["sharpness"] * (agreement(one, other) - tensors["middle"])


def _words(query: Query, tensors: Mapping[str, Tensor]) -> Tensor:
    """What enters the decoder for a question; one without a token has a place all the same."""
    words_KM = embedded(query.words_K, query.table_VD, tensors)
    words_KM = words_KM if len(words_KM) else torch.zeros_like(tensors["nothing"])[None]
    return words_KM + positions(len(words_KM), tensors["nothing"])


def embedded(tokens_K: Tensor, table_VD: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The model's embeddings of tokens, mapped: [K, M]. ``unit`` is the size of an embedding's entries."""
    states_KD = functional.embedding(tokens_K.to(table_VD.device), table_VD).float()
    return linear(states_KD / tensors["unit"], tensors, "enter")


def seen(query: Query, tensors: Mapping[str, Tensor]) -> Tensor:
    """What of a query's pictures a connector makes, [S, M]; of length 0 without one."""
    if query.visual_SD is None:
        return tensors["see.bias"].new_zeros((0, len(tensors["see.bias"])))
    return linear(norm(query.visual_SD.float(), tensors, "see_norm"), tensors, "see")
