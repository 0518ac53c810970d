"""Visual contrastive decoding: equal to two branches run in full at every token, and what it is made of."""

from __future__ import annotations

import math

import pytest
import torch

from vlmend import VLM, Example
from vlmend.alignment.vcd import VCD
from vlmend.alignment.weaken import Weakening, noised
from vlmend.errors import VlmendError

TOKENS = 5


@pytest.fixture
def asked(picture):
    """Two questions about one picture, one about another."""
    shown = [picture(0), picture(0), picture(1)]
    return [Example(f"what is at place {number} ?", image) for number, image in enumerate(shown)]


def by_hand(vlm: VLM, example: Example, way: VCD) -> tuple[int, ...]:
    """Equations 3 and 4 without any cache."""
    clean = vlm.prepare([example])
    names = [clean.rows[0].content]
    noisy = noised(vlm, [example], names, [way.step], Weakening("step", way.step, seed=way.seed))
    said: list[int] = []
    while len(said) < TOKENS and not (said and said[-1] in vlm.ends):
        log_p, log_q = (
            vlm.logits(prepared.__class__((vlm.following(prepared.rows[0], [*said, 0]),), prepared.pictures), 2)[0, 0]
            .double()
            .index_fill(-1, torch.tensor([vlm.parts.image_token]), -torch.inf)
            .log_softmax(-1)
            for prepared in (clean, noisy)
        )
        kept = log_p >= log_p.max() + math.log(way.beta)
        mixed = torch.where(kept, (1 + way.alpha) * log_p - way.alpha * log_q, -torch.inf)
        said.append(int(mixed.argmax()))
    return tuple(said)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.1), (4.0, 0.01)])
def test_as_by_hand(vlm: VLM, asked, alpha: float, beta: float) -> None:
    way = VCD(alpha, beta, 900)
    found = [one.tokens for one in way.replies(vlm, asked, max_new_tokens=TOKENS)]
    assert found == [by_hand(vlm, one, way) for one in asked]


def test_it_changes_answers_and_nothing_else(llava: VLM, asked) -> None:
    plain = llava.generate(llava.prepare(asked), max_new_tokens=TOKENS)
    assert [one.text for one in VCD(0.0).replies(llava, asked, max_new_tokens=TOKENS)] == plain
    assert [one.text for one in VCD(1.0, step=0).replies(llava, asked, max_new_tokens=TOKENS)] == plain
    strong = VCD(20.0, 0.001, 999)
    assert [one.text for one in strong.replies(llava, asked, max_new_tokens=TOKENS)] != plain
    assert llava.generate(llava.prepare(asked), max_new_tokens=TOKENS) == plain


@pytest.mark.parametrize("way", [VCD(3.0, 0.01, 800), VCD(3.0, 0.01, 800, temperature=1.0)])
def test_answers_do_not_depend_on_what_else_is_asked(llava: VLM, asked, way: VCD) -> None:
    together = [one.tokens for one in way.replies(llava, asked, max_new_tokens=TOKENS)]
    alone = [way.replies(llava, [one], max_new_tokens=TOKENS)[0].tokens for one in asked]
    assert together == alone


def test_draws_have_a_seed(llava: VLM, asked) -> None:
    drawn = [
        [one.tokens for one in VCD(0.0, 0.0, temperature=5.0, seed=seed).replies(llava, asked, max_new_tokens=TOKENS)]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_question_without_a_picture(llava: VLM) -> None:
    asked = [Example("what is it ?")]
    plain = llava.generate(llava.prepare(asked), max_new_tokens=TOKENS)
    assert [one.text for one in VCD().replies(llava, asked, max_new_tokens=TOKENS)] == plain


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"alpha": -1.0}, "alpha and temperature are 0 or more"),
        ({"beta": 1.5}, "beta from 0 to 1"),
        ({"alpha": math.nan}, "alpha and temperature are 0 or more"),
        ({"alpha": "much"}, "are numbers"),
        ({"step": 1000}, "step is a whole number from 0 to 999"),
        ({"step": 1.5}, "step is a whole number from 0 to 999"),
        ({"temperature": -1}, "alpha and temperature are 0 or more"),
    ],
)
def test_values_that_cannot_be(values, words: str) -> None:
    with pytest.raises(VlmendError, match=words):
        VCD(**values)
