"""From logits to the log-probabilities of answers: which tokens count, and how likely each of them is.

Everything here lies along the tokens: entry t of a row belongs to the token at t, so ids, masks, span labels and
log-probabilities have one shape. (Logits lie one before: those at t say what comes at t + 1.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.errors import VlmendError

__all__ = ["answer_mask", "check_answers", "span_labels", "target_log_probs", "token_log_probs"]


def target_log_probs(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """log softmax(logits_N)[target_N], in nats, for positions that are aligned already.

    Half precision is widened first: rounding each token's log-probability to bfloat16 drowns the margins of a pair.

    Args:
        logits_NV: logits at the positions that predict the targets.
        target_N: ids of the targets.

    Returns:
        N log-probabilities, in float64 for float64 logits and else in float32.
    """
    wide = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return -functional.cross_entropy(wide, target_N, reduction="none")


def token_log_probs(logits_BTV: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """log p(ids_BT[:, t] | everything before t) where the mask is on, and 0 elsewhere.

    Only the rows of logits that predict a masked token are read, so prompts, visual tokens and padding cost nothing,
    may hold anything, and get no gradient.

    Args:
        logits_BTV: a causal model's logits; those at t - 1 predict the token at t.
        ids_BT: the tokens.
        mask_BT: the tokens that count (see `answer_mask`).

    Returns:
        log-probabilities of shape [B, T], in nats.

    Raises:
        VlmendError: the first token of a row counts, and nothing comes before it.
    """
    mask_BT = mask_BT.bool()
    if bool(mask_BT[:, 0].any()):
        raise VlmendError(f"row {_first(mask_BT[:, 0])}: the answer begins at the first token, before any prompt")
    found_N = target_log_probs(logits_BTV[:, :-1][mask_BT[:, 1:]], ids_BT[mask_BT])
    return found_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, found_N)


def answer_mask(starts_B: Tensor, lengths_B: Tensor, width: int) -> Tensor:
    """Where the answers' tokens are, the one that ends each included; prompts and padding on either side are not.

    Args:
        starts_B: position of each answer's first token, padding counted.
        lengths_B: how many tokens it has, with the one that ends it.
        width: T, the length that the rows are padded to.

    Returns:
        bool [B, T].

    Raises:
        VlmendError: an answer has no tokens, or does not fit into the row: it was cut off.
    """
    ends_B = starts_B + lengths_B
    for wrong_B, problem in (
        (lengths_B < 1, "the answer has no tokens"),
        (ends_B > width, f"the answer is cut off at {width} tokens"),
    ):
        if bool(wrong_B.any()):
            raise VlmendError(f"row {_first(wrong_B)}: {problem}")
    places_T = torch.arange(width, device=starts_B.device)
    return (places_T >= starts_B[:, None]) & (places_T < ends_B[:, None])


def check_answers(ids_BT: Tensor, mask_BT: Tensor, ends: Collection[int]) -> None:
    """Make sure that every mask covers one answer: some tokens in one piece after the prompt, closed by an end token.

    A model trained on answers without an end learns not to stop, and no loss shows it.

    Args:
        ids_BT: the tokens.
        mask_BT: the tokens that count.
        ends: ids of the tokens that end an answer.

    Raises:
        VlmendError: names the row and what is wrong with it.
    """
    for row, (ids_T, mask_T) in enumerate(zip(ids_BT, mask_BT.bool(), strict=True)):
        places = mask_T.nonzero()[:, 0].tolist()
        if not places:
            raise VlmendError(f"row {row}: no token of an answer counts")
        if places[0] == 0:
            raise VlmendError(f"row {row}: the answer begins at the first token, before any prompt")
        if places[-1] - places[0] + 1 != len(places):
            raise VlmendError(f"row {row}: the tokens that count are not in one piece")
        if int(ids_T[places[-1]]) not in ends:
            raise VlmendError(f"row {row}: the answer's last token, {int(ids_T[places[-1]])}, does not end it")


def span_labels(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> Tensor:
    """Which tokens lie in labelled spans of the text: those that share at least one character with one.

    Args:
        offsets: the characters ``text[start:end]`` of each token; ``start == end`` for one that stands for none.
        spans: the labelled characters, ``text[start:end]``.

    Returns:
        bool [N], one entry for each token.
    """
    inside = [any(max(a, start) < min(b, end) for start, end in spans) for a, b in offsets]
    return torch.tensor(inside, dtype=torch.bool)


def _first(wrong_B: Tensor) -> int:
    return int(wrong_B.nonzero()[0, 0])
