"""Another picture of the same: painted from words, and kept only where two judges agree.

MMEdit's second pictures are painted from a caption, not from the question, and need not show what was asked about
(specification of the data: arXiv 2310.08475, section 3.2). Here a picture, wherever it comes from, is kept if

* a model of pictures and texts (CLIP and its like), where one is given, finds the case's caption the likeliest for it
  among those of other cases; and
* the model itself recognises it: it answers other questions rightly that it answers rightly of the first picture, and
  errs again on the case's own. Where there are no such questions, it must make the very same error; of captions, name
  again what it rightly named and an object that is not there (`vlmend.build.errors.Captioned.again`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from PIL import Image

from vlmend.build.errors import UNKNOWN, Right
from vlmend.data.records import EditCase, Example
from vlmend.errors import VlmendError
from vlmend.models.folders import pretrained, unusable
from vlmend.models.hub import check_place
from vlmend.models.loading import quiet
from vlmend.models.vlm import VLM

__all__ = ["Diffused", "Painter", "Scorer", "judged"]


class Painter(Protocol):
    """Makes a picture out of words."""

    def painted(self, caption: str, seed: int) -> Image.Image:
        """A picture; the same words and seed give the same.

        Raises:
            VlmendError: it cannot be made.
        """
        ...

    def check(self) -> None:
        """Find out before the long work whether it can paint at all.

        Raises:
            VlmendError: it cannot.
        """
        ...


@dataclass(frozen=True)
class Diffused:
    """A text-to-image pipeline of diffusers.

    Attributes:
        folder: of the pipeline, or its hub id; nothing is fetched for a folder.
        steps: of the diffusion.
        size: pixels a side; the pipeline's own if ``None``.
        device: where it paints; what is drawn is drawn on the CPU, the same for every device.
    """

    folder: str
    steps: int = 30
    size: int | None = None
    device: str = "cpu"

    def painted(self, caption: str, seed: int) -> Image.Image:
        """A picture of the caption."""
        size = {} if self.size is None else {"height": self.size, "width": self.size}
        draw = torch.Generator().manual_seed(seed)
        made = self._pipeline(caption, num_inference_steps=self.steps, generator=draw, **size)
        return made.images[0].convert("RGB")

    def check(self) -> None:
        """Load it."""
        _ = self._pipeline

    @cached_property
    def _pipeline(self) -> Any:
        check_place(self.folder, VlmendError)
        try:
            from diffusers import DiffusionPipeline  # pyright: ignore[reportMissingImports]
            from diffusers.utils.logging import disable_progress_bar  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise VlmendError("painting pictures needs a package that is not there: pip install diffusers") from error
        try:
            disable_progress_bar()
            with quiet():
                pipeline: Any = DiffusionPipeline.from_pretrained(self.folder, use_safetensors=True)
        except Exception as error:  # damaged files raise whatever their reader comes upon
            raise unusable(self.folder, "text-to-image pipeline of diffusers", error) from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device)


@dataclass(frozen=True)
class Scorer:
    """A model that gives pictures and texts scores (CLIP, SigLIP).

    Attributes:
        folder: of the model, or its hub id.
        device: where it runs.
    """

    folder: str
    device: str = "cpu"

    @torch.no_grad()
    def likeliest(self, picture: Image.Image, captions: Sequence[str]) -> int:
        """Which of some captions it finds the likeliest for a picture."""
        model, processor = self._loaded
        given = processor(text=list(captions), images=picture, return_tensors="pt", padding=True, truncation=True)
        return int(model(**given.to(self.device)).logits_per_image[0].argmax())

    def check(self) -> None:
        """Load it and let it choose.

        Raises:
            VlmendError: it cannot.
        """
        try:
            self.likeliest(Image.new("RGB", (32, 32)), ["a picture", "a text"])
        except VlmendError:
            raise
        except Exception as error:  # whatever a model of something else comes upon
            raise unusable(self.folder, _SCORES, error) from error

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoProcessor

        model, processor = pretrained(AutoModel, AutoProcessor, self.folder, _SCORES, fetch=True)
        return model.to(self.device), processor


_SCORES = "model of pictures and texts"


def judged(
    vlm: VLM,
    case: EditCase,
    second: Example,
    premises: Sequence[Example],
    right: Right,
    *,
    max_new_tokens: int = 32,
) -> str | None:
    """What the model finds wrong with a second picture of a case; ``None`` if nothing.

    Args:
        vlm: whose error the case is.
        case: with what was said of its own picture as ``rejected``.
        second: the second picture, with the question that is asked of it.
        premises: other questions with their answers, rightly answered of the case's own picture, asked of this one.
            Where there are none, the model must make the error that it made of the first.
        right: what counts as right.
        max_new_tokens: longest answer.
    """
    prepared = vlm.prepare([Example(one.question, second.image) for one in (second, *premises)])
    said, *others = vlm.generate(prepared, max_new_tokens=max_new_tokens)
    if right(said, case.request):
        return "the model is right about it"
    if not premises:
        return right.again(said, case.rejected or "", case.request)
    known = all(right(one, premise) for one, premise in zip(others, premises, strict=True))
    return None if known else UNKNOWN
