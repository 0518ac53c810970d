"""Greedy decoding: its settings, and what a teacher-forced run tells of what it would say.

It says a given answer exactly if every token of it is the likeliest after those before it, up to one that ends the
answer. One run of the model tells so; and where they part, how the model's own answer begins.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin

__all__ = ["GREEDY", "Followed", "follow", "takes_the_likeliest"]

# Said in full: what is left out would be taken from the checkpoint's own settings.
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "num_beams": 1,
    "min_length": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}

# What else a checkpoint may set without a say in which token comes next, as long as nothing is sampled.
_HARMLESS = {
    *("max_length", "max_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h", "length_penalty", "early_stopping"),
    *("use_cache", "cache_implementation", "cache_config", "return_dict_in_generate", "transformers_version"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    "suppress_tokens",  # ours are given instead
}

# A lead of the likeliest token, as a share of the largest logit, that batches of other shapes might turn by rounding.
_LEAD, _COARSE_LEAD = 1e-5, 1e-2


def takes_the_likeliest(model: Any) -> bool:
    """Whether, with `GREEDY`, a model that generates says the likeliest token each time, whatever its checkpoint's own
    settings (`min_new_tokens`, forbidden words, ...) are."""
    others = {
        name
        for name, value in vars(model.generation_config).items()
        if name[0] != "_" and value not in (None, False, _usual_settings().get(name))
    }
    usual: Any = GenerationMixin
    return type(model).generate is usual.generate and others <= {*GREEDY, *_HARMLESS}


@cache
def _usual_settings() -> dict[str, Any]:
    return vars(GenerationConfig())


@dataclass(frozen=True)
class Followed:
    """How an answer begins.

    Attributes:
        tokens: its tokens, with the one that ends it.
        ended: whether that is all of it.
    """

    tokens: tuple[int, ...]
    ended: bool


def follow(
    logits_NV: Tensor, guess: Sequence[int], *, ends: Collection[int], never: int, limit: int, coarse: bool = False
) -> Followed | None:
    """What greedy decoding says, as far as a teacher-forced run of a guess tells.

    Args:
        logits_NV: logits where each token of the guess is predicted.
        guess: its tokens.
        ends: tokens that end an answer.
        never: a token that may not be said.
        limit: bound on the answer's tokens.
        coarse: whether the model computes in a type shorter than float32.

    Returns:
        the guess up to an end, up to the first token that the model says instead, or whole; ``None`` where two tokens
        are so nearly alike that another run may decide otherwise.
    """
    if not len(guess):
        return Followed((), limit == 0)
    allowed_NV = logits_NV.clone()
    allowed_NV[:, never : never + 1] = -torch.inf  # Mllama's mark of a picture is none of the tokens it can say
    top = allowed_NV.topk(2, dim=-1)
    scale_N = logits_NV.abs().amax(-1)
    certain = (top.values[:, 0] - top.values[:, 1] > (_COARSE_LEAD if coarse else _LEAD) * scale_N).tolist()
    for count, (likeliest, token) in enumerate(zip(top.indices[:, 0].tolist(), guess, strict=True)):
        if count == limit:
            return Followed(tuple(guess[:count]), True)
        if not certain[count]:
            return None
        if likeliest in ends or likeliest != token:
            return Followed((*guess[:count], likeliest), likeliest in ends or count + 1 == limit)
    return Followed(tuple(guess), len(guess) >= limit)
