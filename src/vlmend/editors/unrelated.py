"""Prompts that are about nothing: random words, with and without a picture of random squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from vlmend.data.records import Example
from vlmend.models.vlm import VLM

__all__ = ["answered", "random_prompts"]

_WORDS = 6  # tokens in a text
_SQUARES = 6  # of a mosaic, across and down


def random_prompts(vlm: VLM, count: int, *, seed: int) -> list[Example]:
    """Texts of random tokens, every second one about a mosaic."""
    draw = torch.Generator().manual_seed(seed)
    return [Example(_words(vlm, draw), _mosaic(draw) if number % 2 else None) for number in range(count)]


def answered(vlm: VLM, examples: Sequence[Example], *, max_new_tokens: int) -> list[Example]:
    """The examples with the model's own answers."""
    said = vlm.generate(vlm.prepare(examples), max_new_tokens=max_new_tokens)
    return [replace(one, answer=answer, aliases=()) for one, answer in zip(examples, said, strict=True)]


def _words(vlm: VLM, draw: torch.Generator) -> str:
    """A text of tokens drawn from the vocabulary, special ones apart."""
    added = vlm.tokenizer.get_added_vocab().values()
    plain = sorted(set(vlm.tokenizer.get_vocab().values()) - set(added) - set(vlm.tokenizer.all_special_ids))
    chosen = torch.randint(len(plain), (_WORDS,), generator=draw).tolist()
    return vlm.tokenizer.decode([plain[place] for place in chosen]).strip() or "?"


def _mosaic(draw: torch.Generator, side: int = 224) -> Image.Image:
    """A picture of squares in random colours."""
    colours = torch.randint(256, (_SQUARES, _SQUARES, 3), generator=draw, dtype=torch.uint8)
    squares = Image.frombytes("RGB", (_SQUARES, _SQUARES), colours.numpy().tobytes())
    return squares.resize((side, side), Image.Resampling.NEAREST)
