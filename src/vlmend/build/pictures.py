"""Another picture of the same: painted from words, and kept only where two judges agree.

MMEdit's second pictures are painted from a caption, not from the question, and need not show what was asked about
(specification of the data: arXiv 2310.08475, section 3.2). Here a picture, wherever it comes from, is kept if

* a model of pictures and texts (CLIP and its like), where one is given, finds the case's caption the likeliest for it
  among those of other cases; and
* the model itself says about it what it said about the first picture: the same error is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from PIL import Image

from vlmend.data.records import EditCase, Example
from vlmend.errors import VlmendError
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM

__all__ = ["Diffused", "Painter", "Scorer", "recognised"]


class Painter(Protocol):
    """Makes a picture out of words."""

    def painted(self, caption: str, seed: int) -> Image.Image:
        """A picture; the same words and seed give the same.

        Raises:
            VlmendError: it cannot be made.
        """
        ...


@dataclass(frozen=True)
class Diffused:
    """A text-to-image pipeline of diffusers.

    Attributes:
        folder: of the pipeline, or its hub id; nothing is fetched for a folder.
        steps: of the diffusion.
        size: pixels a side; the pipeline's own if ``None``.
    """

    folder: str
    steps: int = 30
    size: int | None = None

    def painted(self, caption: str, seed: int) -> Image.Image:
        """A picture of the caption."""
        size = {} if self.size is None else {"height": self.size, "width": self.size}
        draw = torch.Generator().manual_seed(seed)
        made = self._pipeline(caption, num_inference_steps=self.steps, generator=draw, **size)
        return made.images[0].convert("RGB")

    @cached_property
    def _pipeline(self) -> Any:
        try:
            from diffusers import DiffusionPipeline  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise VlmendError("painting pictures needs a package that is not there: pip install diffusers") from error
        try:
            pipeline: Any = DiffusionPipeline.from_pretrained(self.folder, use_safetensors=True)
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            raise VlmendError(f"'{self.folder}' holds no text-to-image pipeline of diffusers: {why}") from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@dataclass(frozen=True)
class Scorer:
    """A model that gives pictures and texts scores (CLIP, SigLIP).

    Attributes:
        folder: of the model, or its hub id.
    """

    folder: str

    @torch.no_grad()
    def likeliest(self, picture: Image.Image, captions: Sequence[str]) -> int:
        """Which of some captions it finds the likeliest for a picture."""
        model, processor = self._loaded
        given = processor(text=list(captions), images=picture, return_tensors="pt", padding=True, truncation=True)
        return int(model(**given).logits_per_image[0].argmax())

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoProcessor

        try:
            return AutoModel.from_pretrained(self.folder).eval(), AutoProcessor.from_pretrained(self.folder)
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            raise VlmendError(f"'{self.folder}' holds no model of pictures and texts: {why}") from error


def recognised(vlm: VLM, case: EditCase, picture: Image.Image, *, max_new_tokens: int = 32) -> bool:
    """Whether the model says about a picture what it said about the case's."""
    said = vlm.generate(vlm.prepare([Example(case.request.question, picture)]), max_new_tokens=max_new_tokens)
    return matches(said[0], (case.rejected or "",))
