"""Which kind of error an answer would be, if it is wrong: the picture misread, or what it shows known wrongly.

No truth is looked at, only the model, the picture and the question. The picture is altered slightly, as no reader would
mind (sensor noise, light, a shift by a few pixels, a little blur), and the model's answer is weighed again each time.
A picture that is read well is read the same way in all of them: an answer that holds is what the model knows, and if it
is wrong, then what it knows is wrong. An answer that wavers hangs on how the picture happens to be read.

It is self-consistency over inputs (Wang et al., ICLR 2023, arXiv 2203.11171, over samples) used to tell errors of
perception from errors of knowledge. What it cannot see: a thing misread with confidence counts as known wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageFilter

from vlmend.attribution.integrated_gradients import greyed
from vlmend.attribution.target import asked
from vlmend.data.records import EditCase, Example
from vlmend.errors import AttributionError
from vlmend.models.pictures import open_picture
from vlmend.models.prepared import Asked
from vlmend.models.vlm import VLM

__all__ = ["FIRM", "Cause", "cause_of", "views"]

Kind = Literal["mis-seen", "mis-known"]

FIRM = 0.87
"""From this mean probability on an answer is firm. Chosen on the demo world (docs/attribution.md)."""

_NOISE = (8.0, 16.0)  # of 255
_LIGHT = (0.85, 1.15)
_SHIFT = 1 / 32  # of the sides
_BLUR = 1 / 128  # of the longer side


@dataclass(frozen=True)
class Cause:
    """What an error of this answer would be.

    Attributes:
        kind: "mis-seen" or "mis-known".
        answer: the model's own.
        held: its mean probability over the altered views (`RowOutput.probability`).
        lowest: the smallest of them.
        views: how many there are.
        seen: its probability with the picture as it is.
        unseen: with a grey picture.
        firm: the threshold.
    """

    kind: Kind
    answer: str
    held: float
    lowest: float
    views: int
    seen: float
    unseen: float
    firm: float

    @property
    def why(self) -> str:
        """The evidence in one line."""
        shaken = f"over {self.views} slightly altered views it keeps a mean probability of {100 * self.held:.0f} %"
        rule = f"firm from {100 * self.firm:.0f} % on; with a grey picture it has {100 * self.unseen:.0f} %"
        if self.kind == "mis-known":
            return f"{shaken} ({rule}): the picture is read firmly, so an error would be in what the model knows of it"
        falls = f"and falls to {100 * self.lowest:.0f} % in one"
        return f"{shaken} {falls} ({rule}): an error would be in how the picture is read"

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data."""
        return {**asdict(self), "why": self.why}


@torch.no_grad()
def cause_of(
    vlm: VLM, example: Asked | EditCase, answer: str | None = None, *, firm: float = FIRM, max_new_tokens: int = 32
) -> Cause:
    """Which kind of error the model's own answer would be, with the edits in force.

    Args:
        vlm: a loaded model.
        example: a question with pictures; its answer is not looked at.
        answer: whose error; the model's own answer if it is left out.
        firm: mean probability over the views from which on an answer counts as firm.
        max_new_tokens: longest answer.

    Raises:
        AttributionError: there is no picture, or the model says nothing.
    """
    example = asked(example)
    if not example.pictures:
        raise AttributionError(f"the question {example.question!r} has no picture that could be read wrongly")
    if answer is None:
        answer = vlm.generate(vlm.prepare([replace(example, answer=None)]), max_new_tokens=max_new_tokens)[0]
    if not answer:
        raise AttributionError(f"the model says nothing to {example.question!r}")
    given = replace(example, answer=answer)
    rows = vlm.run(vlm.prepare([given, greyed(given), *views(given)])).rows
    if not rows[0].answer_length:
        raise AttributionError(f"the answer {answer!r} has no tokens: there is nothing to weigh")
    seen, unseen, *held = (row.probability for row in rows)
    mean = sum(held) / len(held)
    kind: Kind = "mis-known" if mean >= firm else "mis-seen"
    return Cause(kind, answer, mean, min(held), len(held), seen, unseen, firm)


def views(example: Example) -> list[Example]:
    """The example with all its pictures altered slightly, in the same way in each view."""
    altered = [list(_views(open_picture(one).convert("RGB"))) for one in example.pictures]
    return [replace(example, image=some[0] if len(some) == 1 else some) for some in zip(*altered, strict=True)]


def _views(picture: Image.Image) -> Iterator[Image.Image]:
    pixels = np.asarray(picture, dtype=np.float32)
    noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
    for size in _NOISE:
        yield _image(pixels + size * noise)
    for light in _LIGHT:
        yield _image(pixels * light)
    down, across = (max(1, round(_SHIFT * side)) for side in pixels.shape[:2])
    for shift in ((down, 0), (-down, 0), (0, across), (0, -across)):
        yield _image(_shifted(pixels, *shift))
    yield picture.filter(ImageFilter.GaussianBlur(_BLUR * max(picture.size)))


def _shifted(pixels: np.ndarray, down: int, across: int) -> np.ndarray:
    """Moved, the edge's pixels repeated where nothing comes from."""
    rows = np.clip(np.arange(pixels.shape[0]) - down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) - across, 0, pixels.shape[1] - 1)
    return pixels[rows][:, columns]


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
