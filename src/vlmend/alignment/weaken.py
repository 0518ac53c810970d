"""Weakened pictures: what a model answers when it sees less, and so says what it expects (BPO, arXiv 2403.08730).

A picture x_0 becomes x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e with e ~ N(0, 1), a_t the product of 1 - beta_i for i <= t
and beta_i = sigmoid(linspace(-6, 6, 1000)_i) (5e-3 - 1e-5) + 1e-5 (BPO's and VCD's ``add_diffusion_noise``). The noise
goes into the tensor that the processor makes, or into the picture before it.

Answers are generated from the noised picture itself. The published code gives the clean picture to the branch that
answers, and the noised one to a contrast that takes its likelihoods off: the opposite of what is meant.

Step 0 is no noise at all here; as published, index 0 of the schedule is a little (``diffused(x, e, 0)``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmend.data.records import Example
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.models.outputs import RowOutput, kl_divergence
from vlmend.models.pictures import open_picture
from vlmend.models.prepared import Prepared, Row
from vlmend.models.vlm import VLM

__all__ = [
    "AMOUNTS",
    "STEPS",
    "WHERE",
    "Amount",
    "Noise",
    "Weakening",
    "Where",
    "alpha_bar",
    "diffused",
    "divergence",
    "noised",
    "noisy",
    "seed_of",
    "snr_of_step",
    "step_of_snr",
    "weakened",
]

STEPS = 1000
_PIXELS = "pixel_values"

Where = Literal["pixels", "picture"]
WHERE: tuple[Where, ...] = ("pixels", "picture")
"""Where the noise goes: into what the processor made, which is scaled to about unit variance, or into the picture
before it, scaled to [-1, 1], whose values are then cut off and rounded as a picture's are."""

Amount = Literal["step", "snr", "kl"]
AMOUNTS: Mapping[Amount, str] = {
    "step": "a step of the schedule, 0 to 999",
    "snr": "signal-to-noise ratio in dB, by the variance of the picture itself",
    "kl": "nats a token between the answer's likelihoods given the clean and the weakened picture",
}
"""In what it is said how much a picture is weakened."""


@cache
def alpha_bar() -> Tensor:
    """a_t of all steps, float64 [1000]."""
    beta_S = torch.linspace(-6, 6, STEPS, dtype=torch.float64).sigmoid() * (5e-3 - 1e-5) + 1e-5
    return (1 - beta_S).cumprod(0)


def diffused(clean: Tensor, noise: Tensor, step: int) -> Tensor:
    """x_t of x_0 and e, of any shape, by index t from 0 as published.

    Raises:
        VlmendError: there is no such step.
    """
    if not 0 <= step < STEPS:
        raise VlmendError(f"steps of noise are 0 to {STEPS - 1}, not {step}")
    kept = float(alpha_bar()[step])
    return math.sqrt(kept) * clean + math.sqrt(1 - kept) * noise


def noisy(picture: Image.Image, generator: torch.Generator, step: int) -> Image.Image:
    """x_t of a picture scaled to [-1, 1], as a picture again: what is out of that is cut off.

    Raises:
        VlmendError: there is no such step.
    """
    clean = _scaled(picture)
    made = diffused(clean, torch.randn(clean.shape, generator=generator), step)
    return Image.fromarray(((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())


def snr_of_step(step: int, variance: float = 1.0) -> float:
    """Signal-to-noise ratio at a step, in dB; infinite at 0, where there is no noise."""
    if step == 0:
        return math.inf
    kept = float(alpha_bar()[step])
    return 10 * math.log10(max(variance, 1e-12) * kept / (1 - kept))


def step_of_snr(ratio: float, variance: float = 1.0) -> int:
    """The step, 1 to 999, whose signal-to-noise ratio in dB is nearest."""
    return min(range(1, STEPS), key=lambda step: abs(snr_of_step(step, variance) - ratio))


def seed_of(seed: int, name: str) -> int:
    """A record's own seed: the same in every run, whatever other records there are."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest(), "big")


@dataclass(frozen=True)
class Weakening:
    """How pictures are weakened.

    Attributes:
        by: what ``value`` is, of `AMOUNTS`.
        value: how much.
        where: of `WHERE`.
        seed: of the noise; every record's own is made of this and its id.

    Raises:
        UnknownNameError: there is no such amount, or place.
        VlmendError: a step out of the schedule, a ratio that is no number, or a divergence that is not above 0.
    """

    by: Amount = "step"
    value: float = 700
    where: Where = "pixels"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in AMOUNTS:
            raise UnknownNameError("amount of noise", self.by, AMOUNTS)
        if self.where not in WHERE:
            raise UnknownNameError("place of noise", self.where, WHERE)
        if self.by == "step" and self.value not in range(STEPS):
            raise VlmendError(f"steps of noise are 0 to {STEPS - 1}, not {self.value:g}")
        if self.by == "snr" and not math.isfinite(self.value):
            raise VlmendError(f"a signal-to-noise ratio is a finite number of dB, not {self.value:g}")
        if self.by == "kl" and not 0 < self.value < math.inf:
            raise VlmendError(f"a divergence is above 0, not {self.value:g}")


@dataclass(frozen=True)
class Noise:
    """What one record's picture got.

    Attributes:
        step: of the schedule.
        snr: in dB, by the variance of the picture itself; infinite at step 0.
        kl: nats a token, where an answer was given to measure it on.
    """

    step: int
    snr: float
    kl: float | None = None


def noised(vlm: VLM, asked: Sequence[Example], names: Sequence[str], steps: Sequence[int], how: Weakening) -> Prepared:
    """Examples as the model's input, each with its own noise in its pictures; at step 0 exactly the clean ones.

    Args:
        vlm: the model.
        asked: all with pictures.
        names: ids, by which each gets its noise.
        steps: one for each.
        how: where the noise goes, and the seed; its amount is not read.

    Raises:
        PromptError: an example cannot be turned into this model's input.
    """
    if how.where == "picture":
        return vlm.prepare([_painted_over(*one, how.seed) for one in zip(asked, names, steps, strict=True)])
    return _in_pixels(vlm.prepare(asked), names, steps, how.seed)


def weakened(vlm: VLM, asked: Sequence[Example], names: Sequence[str], how: Weakening) -> tuple[Prepared, list[Noise]]:
    """Examples with noise of the wanted amount in their pictures, and what each got.

    A divergence is found by bisection over the steps, on the answers of the examples, all of them run together: the
    first step at which it is reached, else the last.

    Raises:
        PromptError: an example cannot be turned into this model's input.
        VlmendError: a divergence is wanted, and an example has no answer.
    """
    clean = vlm.prepare(asked)
    variances = _variances(clean, asked, how.where)
    steps = _FINDERS[how.by](_Sought(vlm, asked, names, how, clean, variances))
    made = noised(vlm, asked, names, steps, how)
    answered = all(row.answer_length for row in clean.rows)
    kls = divergence(vlm, clean, made) if answered else [None] * len(asked)
    found = [Noise(step, snr_of_step(step, var), kl) for step, var, kl in zip(steps, variances, kls, strict=True)]
    return made, found


def divergence(vlm: VLM, clean: Prepared, other: Prepared) -> list[float]:
    """KL(clean || other) of each row's target, in nats a token, mean over the tokens of the answer."""
    before, after = (vlm.run(prepared).rows for prepared in (clean, other))
    return [_mean_kl(*pair) for pair in zip(before, after, strict=True)]


def _mean_kl(clean: RowOutput, other: RowOutput) -> float:
    return kl_divergence(*(one.logits_NV[: one.answer_length] for one in (clean, other)))


@dataclass(frozen=True, eq=False)
class _Sought:
    """For what steps are sought."""

    vlm: VLM
    asked: Sequence[Example]
    names: Sequence[str]
    how: Weakening
    clean: Prepared
    variances: Sequence[float]


def _as_given(sought: _Sought) -> list[int]:
    return [int(sought.how.value)] * len(sought.asked)


def _by_ratio(sought: _Sought) -> list[int]:
    return [step_of_snr(sought.how.value, variance) for variance in sought.variances]


def _by_divergence(sought: _Sought) -> list[int]:
    if any(not row.answer_length for row in sought.clean.rows):
        raise VlmendError("a divergence is measured on answers, and an example has none")
    clean = sought.vlm.run(sought.clean).rows
    low, high = [0] * len(clean), [STEPS - 1] * len(clean)  # reached behind low, and at high or nowhere
    while any(above - below > 1 for below, above in zip(low, high, strict=True)):
        middle = [(below + above) // 2 for below, above in zip(low, high, strict=True)]
        made = noised(sought.vlm, sought.asked, sought.names, middle, sought.how)
        for index, (before, after) in enumerate(zip(clean, sought.vlm.run(made).rows, strict=True)):
            reached = _mean_kl(before, after) >= sought.how.value
            (high if reached else low)[index] = middle[index]
    return high


_FINDERS: Mapping[Amount, Callable[[_Sought], list[int]]] = {
    "step": _as_given,
    "snr": _by_ratio,
    "kl": _by_divergence,
}


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(seed, name))


def _in_pixels(prepared: Prepared, names: Sequence[str], steps: Sequence[int], seed: int) -> Prepared:
    """Rows that see noised tensors, under keys of their own; what was computed of clean ones is not theirs."""
    rows: list[Row] = []
    pictures: dict[str, dict[str, Tensor]] = {}
    for row, name, step in zip(prepared.rows, names, steps, strict=True):
        if row.picture is not None:
            side = prepared.pictures[row.picture]
            key = row.picture if step == 0 else f"{row.picture}/{seed}/{name}/{step}"
            if step:
                noise = torch.randn(side[_PIXELS].shape, generator=_generator(seed, name))
                side = side | {_PIXELS: diffused(side[_PIXELS].float(), noise, step).to(side[_PIXELS].dtype)}
            pictures[key] = side
            row = replace(row, picture=key)
        rows.append(row)
    return Prepared(tuple(rows), pictures)


def _painted_over(example: Example, name: str, step: int, seed: int) -> Example:
    """The example with noise in its pictures."""
    if step == 0:
        return example
    generator = _generator(seed, name)
    images = tuple(noisy(open_picture(one), generator, step) for one in example.pictures)
    return replace(example, image=images[0] if len(images) == 1 else images or None)


def _scaled(picture: Image.Image) -> Tensor:
    """A picture's values in [-1, 1], [height, width, 3]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1)


def _variances(prepared: Prepared, asked: Sequence[Example], where: Where) -> list[float]:
    """Of what the noise is added to, for each example."""
    if where == "pixels":
        keys: list[Any] = [row.picture for row in prepared.rows]
        return [float(prepared.pictures[key][_PIXELS].float().var()) if key else 0.0 for key in keys]
    return [
        float(torch.cat([_scaled(open_picture(image)).flatten() for image in one.pictures]).var())
        if one.pictures
        else 0.0
        for one in asked
    ]
