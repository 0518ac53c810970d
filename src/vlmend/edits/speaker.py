"""A counterfactual model: a small decoder that is shown an edit, a query and its picture, and says the answer.

It reads, one after another, what its connector makes of the query's pictures, the edit's question and new answer, the
query's question, a sign to begin, and what has been said; each piece is counted for itself and marked as what it is.
Words enter as the edited model's own embeddings E [V, W] of them, mapped, and what is said next has the logits

    (W_leave h / unit) E^T

of the state h behind the last layer: it has the vocabulary of the model, few weights of its own, and can say a word
that it never saw in training (SERAC's counterfactual model, Mitchell et al., ICML 2022, arXiv 2206.06520, section 3.2,
is a language model of its own). The connector is trained with the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmend.edits.decoder import decode, padded, positions
from vlmend.edits.named import linear
from vlmend.edits.scope import embedded, seen
from vlmend.models.mixing import Query

__all__ = ["Fact", "say"]

_PIECES = ("picture", "question", "answer", "query", "said")


@dataclass(frozen=True, eq=False)
class Fact:
    """An edit as the counterfactual model is shown it.

    Attributes:
        words_K: tokens of its question.
        answer_N: of its new answer, with what ends it.
    """

    words_K: Tensor
    answer_N: Tensor


def say(asked: Sequence[tuple[Fact, Query, Tensor]], tensors: Mapping[str, Tensor], heads: int) -> list[Tensor]:
    """Logits for the first token of each answer, and for what follows each token said: [N + 1, V].

    Args:
        asked: facts, queries, and the tokens said so far, [N] each.
        tensors: ``unit``, ``enter``, ``see_norm``, ``see``, ``begin`` [M], ``pieces`` [5, M], ``leave``, and the
            decoder's.
        heads: of the decoder.
    """
    states_NTM, real_NT = padded([_shown(*one, tensors) for one in asked])
    decoded_NTM = decode(states_NTM, real_NT, tensors, heads)
    made: list[Tensor] = []
    for (_, query, said_N), decoded_TM in zip(asked, decoded_NTM, strict=True):
        table_VD = query.table_VD
        left_ND = linear(decoded_TM[-1 - len(said_N) :], tensors, "leave") / tensors["unit"]
        made.append((left_ND.to(table_VD.dtype) @ table_VD.T).float())
    return made


def _shown(fact: Fact, query: Query, said_N: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """All that the decoder reads, [T, M]."""
    tokens = {"question": fact.words_K, "answer": fact.answer_N, "query": query.words_K, "said": said_N}
    pieces = {name: embedded(some, query.table_VD, tensors) for name, some in tokens.items()}
    pieces["picture"] = seen(query, tensors)
    pieces["said"] = torch.cat([tensors["begin"][None], pieces["said"]])
    marked = [
        pieces[name] + mark_M + positions(len(pieces[name]), mark_M)
        for name, mark_M in zip(_PIECES, tensors["pieces"], strict=True)
    ]
    return torch.cat(marked)
