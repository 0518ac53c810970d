"""Visual contrastive decoding (Leng et al., CVPR 2024, arXiv 2311.16922): a training-free peer of preference training.

Every token is said by (1 + a) log p(y | v, x) - a log p(y | v', x), equation 3, among those y with
p(y | v, x) >= b max p(. | v, x), equation 4; v' is the picture v with diffusion noise (``weaken.py``). Both branches
say the same answer, each with its own cache, as in VCD's code; BPO's copy of it takes the clean branch's cache for the
noisy one from the second token on, so that what is subtracted is the same as what is added.

The noise of a picture is that of its content and the seed: questions about one picture share it, whatever else is
asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmend.alignment.weaken import STEPS, Weakening, noised, seed_of
from vlmend.data.records import Example
from vlmend.errors import VlmendError
from vlmend.models.contrast import Contrast
from vlmend.models.outputs import Reply
from vlmend.models.sampling import Draws
from vlmend.models.vlm import VLM

__all__ = ["VCD"]


@dataclass(frozen=True)
class VCD:
    """How answers are decoded.

    Attributes:
        alpha: a; at 0 the model's own answers.
        beta: b.
        step: of the noise, 0 to 999.
        temperature: of drawn answers, each question's by a seed of its own; 0 says the likeliest token. Published
            numbers are drawn at 1.
        seed: of noise and draws.

    Raises:
        VlmendError: a value that cannot be.
    """

    alpha: float = 1.0
    beta: float = 0.1
    step: int = 500
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        numbers: tuple[Any, ...] = (self.alpha, self.beta, self.temperature)  # typed in, perhaps
        if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
            raise VlmendError("vcd: alpha, beta and temperature are numbers")
        if not self.alpha >= 0 or not 0 <= self.beta <= 1 or not self.temperature >= 0:
            raise VlmendError("vcd: alpha and temperature are 0 or more, and beta from 0 to 1")
        if type(self.step) is not int or self.step not in range(STEPS) or type(self.seed) is not int:
            raise VlmendError(f"vcd: step is a whole number from 0 to {STEPS - 1}, and seed a whole number")

    def replies(self, vlm: VLM, asked: Sequence[Example], *, max_new_tokens: int) -> list[Reply]:
        """Answers to examples, with the edits in force; without a picture both branches are one, and nothing changes
        but that implausible tokens cannot be drawn.

        Raises:
            PromptError: an example cannot be turned into this model's input.
        """
        clean = vlm.prepare(asked)
        names = [row.content for row in clean.rows]
        noisy = noised(vlm, asked, names, [self.step] * len(asked), Weakening("step", self.step, seed=self.seed))
        keys = [f"{name}/{one.question}" for name, one in zip(names, asked, strict=True)]
        draws = Draws(tuple(seed_of(self.seed, key) for key in keys), self.temperature) if self.temperature else None
        against = Contrast(noisy, self.alpha, self.beta)
        return vlm.replies(clean, max_new_tokens=max_new_tokens, sampling=draws, against=against)
