"""What a teacher-forced run tells of greedy decoding is what greedy decoding says."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from vlmend import VLM, Example
from vlmend.models.greedy import Followed, follow, takes_the_likeliest

END, NEVER, WORDS = 0, 1, 6


def logits(*likeliest: int) -> torch.Tensor:
    made = torch.zeros(len(likeliest), WORDS)
    made[range(len(likeliest)), likeliest] = 2.0
    return made


@pytest.mark.parametrize(
    ("likeliest", "guess", "limit", "found"),
    [
        ((3, 4, END), (3, 4, END), 9, Followed((3, 4, END), True)),
        ((3, END, 4), (3, 4, END), 9, Followed((3, END), True)),  # it ends sooner
        ((3, 5, END), (3, 4, END), 9, Followed((3, 5), False)),  # another word: what follows it is not known
        ((5, 4, END), (3, 4, END), 9, Followed((5,), False)),
        ((3, 4, 5), (3, 4, END), 9, Followed((3, 4, 5), False)),  # it goes on
        ((3, 4), (3, 4), 9, Followed((3, 4), False)),
        ((3, 4, END), (3, 4, END), 2, Followed((3, 4), True)),
        ((3, 5, END), (3, 4, END), 2, Followed((3, 5), True)),
        ((), (), 9, Followed((), False)),
    ],
)
def test_follows(likeliest, guess, limit, found):
    assert follow(logits(*likeliest), guess, ends=(END,), never=NEVER, limit=limit) == found


def test_a_tie_is_left_to_generation():
    tied = logits(3, 4, END)
    tied[1, 5] = tied[1, 4]
    assert follow(tied, (3, 4, END), ends=(END,), never=NEVER, limit=9) is None
    assert follow(tied, (5, 4, END), ends=(END,), never=NEVER, limit=9) == Followed((3,), False)


def test_what_may_not_be_said_is_never_the_likeliest():
    loud = logits(3, 4, END)
    loud[1, NEVER] = 5.0
    assert follow(loud, (3, 4, END), ends=(END,), never=NEVER, limit=9) == Followed((3, 4, END), True)


@pytest.mark.parametrize(
    "setting", [{"min_new_tokens": 4}, {"bad_words_ids": [[7]]}, {"forced_eos_token_id": 2}, {"guidance_scale": 2.0}]
)
def test_settings_that_have_a_say_are_left_to_generation(llava: VLM, picture, monkeypatch, setting):
    assert takes_the_likeliest(llava.model)
    given = {"repetition_penalty": 1.3, "temperature": 0.7, **setting}  # the first two are overridden
    monkeypatch.setattr(llava.model, "generation_config", GenerationConfig(**given))
    assert not takes_the_likeliest(llava.model)
    outputs = llava.run(llava.prepare([Example("what ?", picture(1), "red")])).rows
    assert llava.followed(outputs, max_new_tokens=4) == [None]


def test_what_is_followed_is_what_is_generated(vlm: VLM, picture):
    """A right guess is confirmed; a wrong one tells how the answer begins."""
    limit = 5
    asked = [Example("what colour is the cup ?", picture(1), "red"), Example("who wrote the song", None, "the dog")]
    prepared = vlm.prepare(asked)
    said = vlm.replies(prepared, max_new_tokens=limit)
    for row, reply in zip(prepared.rows, said, strict=True):
        other = (reply.tokens[0] + 1) % 40
        guesses = [reply.tokens, (*reply.tokens[:1], other, *reply.tokens[2:]), (other,)]
        rows = vlm.prepare(asked)
        rows = type(rows)(tuple(vlm.following(row, guess) for guess in guesses), rows.pictures)
        right, second, first = vlm.followed(vlm.run(rows).rows, max_new_tokens=limit)
        assert right == reply
        assert second is not None and second.tokens == reply.tokens[: len(second.tokens)]
        assert first is not None and first.tokens == reply.tokens[:1]
