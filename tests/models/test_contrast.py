"""Two branches, one answer: as by hand a token at a time, and nothing of the sort at weight 0."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmend import VLM, Example
from vlmend.errors import VlmendError
from vlmend.models.contrast import Contrast
from vlmend.models.sampling import Draws, Sampling

TOKENS = 5


@pytest.fixture
def rows(vlm: VLM, picture):
    """The same questions about one picture and about another."""
    return tuple(
        vlm.prepare([Example(f"what is at place {n} ?", picture(seed + n)) for n in range(3)]) for seed in (0, 10)
    )


def by_hand(vlm: VLM, own, other, contrast: Contrast) -> list[tuple[int, ...]]:
    """Each token by full runs of both branches over all before it."""
    found = []
    for index in range(len(own)):
        said: list[int] = []
        while len(said) < TOKENS and not (said and said[-1] in vlm.ends):
            both = []
            for prepared in (own, other):
                row = vlm.following(prepared.rows[index], [*said, 0])
                logits_V = vlm.run(replace(prepared, rows=(row,))).rows[0].logits_NV[-1]
                logits_V[vlm.parts.image_token] = -torch.inf
                both.append(logits_V[None])
            said.append(int(contrast.mixed(*both).argmax()))
        found.append(tuple(said))
    return found


@pytest.mark.parametrize(("weight", "plausible"), [(1.0, 0.1), (3.0, 0.0)])
def test_as_by_hand(vlm: VLM, rows, weight, plausible) -> None:
    own, other = rows
    contrast = Contrast(other, weight, plausible)
    said = vlm.replies(own, max_new_tokens=TOKENS, against=contrast)
    assert [one.tokens for one in said] == by_hand(vlm, own, other, contrast)


def test_no_weight_is_no_contrast(vlm: VLM, rows) -> None:
    own, other = rows
    plain = vlm.replies(own, max_new_tokens=TOKENS)
    assert [one.tokens for one in vlm.replies(own, max_new_tokens=TOKENS, against=Contrast(other, 0.0))] == [
        one.tokens for one in plain
    ]
    draws = Draws((1, 2, 3))
    drawn = vlm.replies(own, max_new_tokens=TOKENS, sampling=draws)
    against = Contrast(other, 0.0, 0.0)
    assert [one.tokens for one in vlm.replies(own, max_new_tokens=TOKENS, sampling=draws, against=against)] == [
        one.tokens for one in drawn
    ]


def test_what_cannot_be(llava: VLM, picture) -> None:
    one = llava.prepare([Example("what ?", picture(0))])
    with pytest.raises(VlmendError, match="one other row for each"):
        llava.replies(one, against=Contrast(llava.prepare([Example("what ?", picture(0))] * 2)))
    with pytest.raises(VlmendError, match="own seed"):
        llava.replies(one, sampling=Sampling(), against=Contrast(one))
    with pytest.raises(VlmendError, match="from 0 on"):
        Contrast(one, -1.0)
