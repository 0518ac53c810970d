"""Weakened pictures: the published noise, nothing at step 0, the wanted amount, and a record's own noise each time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlmend import VLM, Example
from vlmend.alignment.weaken import (
    STEPS,
    Weakening,
    alpha_bar,
    diffused,
    divergence,
    noised,
    snr_of_step,
    step_of_snr,
    weakened,
)
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.models.sampling import Draws

NAMES = ["a", "b", "c"]


@pytest.fixture
def asked(picture) -> list[Example]:
    return [Example(f"what is at place {n} ?", picture(n % 2), "a red bird") for n in range(3)]


def test_as_published(fixtures: Path) -> None:
    tensors = load_file(fixtures / "diffusion_noise.safetensors")
    table = json.loads((fixtures / "diffusion_noise.json").read_text())["table"]
    for row in table:
        made = diffused(tensors["x0"], tensors["eps"], row["t"])
        assert torch.allclose(made, tensors[f"xt.{row['t']}"], rtol=0, atol=1e-5)
        assert float(alpha_bar()[row["t"]]) == pytest.approx(row["alpha_bar_f64_same_formula"], abs=1e-9)
    assert len(table) == 11


def test_ratios() -> None:
    """As computed in the project's notes on BPO, for input of unit variance."""
    known = {200: 19.1, 500: 4.7, 700: -2.7, 900: -8.1, 999: -10.5}
    assert {step: round(snr_of_step(step), 1) for step in known} == known
    assert [step_of_snr(snr_of_step(step)) for step in (1, 300, 700, 999)] == [1, 300, 700, 999]
    assert snr_of_step(700, 0.25) == pytest.approx(snr_of_step(700) - 10 * math.log10(4))
    assert snr_of_step(0) == math.inf


@pytest.mark.parametrize("where", ["pixels", "picture"])
def test_step_0_is_the_clean_picture(vlm: VLM, asked: list[Example], where) -> None:
    clean, made = vlm.prepare(asked), noised(vlm, asked, NAMES, [0, 0, 0], Weakening(where=where))
    assert clean.pictures.keys() == made.pictures.keys()
    for key, side in clean.pictures.items():
        assert all(torch.equal(value, made.pictures[key][name]) for name, value in side.items())
    assert vlm.generate(made) == vlm.generate(clean)
    assert divergence(vlm, clean, made) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("where", ["pixels", "picture"])
def test_noise_is_a_records_own(vlm: VLM, asked: list[Example], where) -> None:
    """Rows with one picture get each their own noise, and the same one whatever else is asked."""
    how = Weakening(value=800, where=where)
    all_, one = noised(vlm, asked, NAMES, [800] * 3, how), noised(vlm, asked[2:], ["c"], [800], how)
    pixels = [all_.pictures[row.picture]["pixel_values"] for row in all_.rows]
    assert not torch.equal(pixels[0], pixels[2])
    assert torch.equal(pixels[2], one.pictures[one.rows[0].picture]["pixel_values"])
    other = noised(vlm, asked[2:], ["c"], [800], replace(how, seed=1))
    assert not torch.equal(pixels[2], other.pictures[other.rows[0].picture]["pixel_values"])
    assert min(divergence(vlm, vlm.prepare(asked), all_)) > 0


def test_a_wanted_ratio(llava: VLM, asked: list[Example]) -> None:
    _, found = weakened(llava, asked, NAMES, Weakening("snr", -3.0))
    assert [one.snr for one in found] == [pytest.approx(-3.0, abs=0.05)] * 3


def test_a_wanted_divergence(llava: VLM, asked: list[Example]) -> None:
    _, most = weakened(llava, asked, NAMES, Weakening("step", STEPS - 1))
    target = min(one.kl for one in most) / 2
    _, found = weakened(llava, asked, NAMES, Weakening("kl", target))
    for one in found:
        assert one.kl >= target
        assert 0 < one.step < STEPS - 1
    _, out_of_reach = weakened(llava, asked, NAMES, Weakening("kl", 1e6))
    assert [one.step for one in out_of_reach] == [STEPS - 1] * 3
    with pytest.raises(VlmendError, match="an example has none"):
        weakened(llava, [replace(asked[0], answer=None)], ["a"], Weakening("kl", 0.1))


@pytest.mark.parametrize(
    ("by", "value", "where", "words"),
    [
        ("step", 1000, "pixels", "0 to 999"),
        ("kl", 0, "pixels", "above 0"),
        ("snr", math.nan, "pixels", "finite number of dB, not nan"),
        ("most", 1, "pixels", "no amount of noise named 'most'"),
        ("step", 1, "air", "no place of noise named 'air'"),
    ],
)
def test_what_cannot_be(by, value, where, words) -> None:
    with pytest.raises((VlmendError, UnknownNameError), match=words):
        Weakening(by, value, where)


def test_draws_are_a_rows_own(vlm: VLM, asked: list[Example]) -> None:
    """An answer that is drawn does not depend on the rows beside it; over seeds answers differ."""
    prepared = vlm.prepare(asked)
    together = vlm.replies(prepared, max_new_tokens=6, sampling=Draws((1, 2, 3), 1.5))
    alone = vlm.replies(vlm.prepare(asked[1:2]), max_new_tokens=6, sampling=Draws((2,), 1.5))
    assert together[1].tokens == alone[0].tokens
    again = vlm.replies(prepared, max_new_tokens=6, sampling=Draws((4, 5, 6), 1.5))
    assert [one.tokens for one in again] != [one.tokens for one in together]
    cold = vlm.replies(prepared, max_new_tokens=6, sampling=Draws((4, 5, 6), 1.0, top_p=1e-9))
    assert [one.tokens for one in cold] == [one.tokens for one in vlm.replies(prepared, max_new_tokens=6)]


def test_an_answer_that_was_begun_goes_on(vlm: VLM, asked: list[Example]) -> None:
    """Greedy answers, cut after their second token and gone on with, are the greedy answers."""
    prepared = vlm.prepare(asked)
    said = vlm.replies(prepared, max_new_tokens=6)
    rows = [vlm.going_on(row, one.tokens[:2]) for row, one in zip(prepared.rows, said, strict=True)]
    ended = [any(token in vlm.ends for token in one.tokens[:2]) for one in said]
    rest = vlm.replies(replace(prepared, rows=tuple(rows)), max_new_tokens=4)
    for whole, part, over in zip(said, rest, ended, strict=True):
        assert over or whole.tokens == (*whole.tokens[:2], *part.tokens)
