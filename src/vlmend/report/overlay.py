"""A heat map laid over the picture it is about, as a picture again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["overlay"]

SIGNED, UNSIGNED = "RdBu_r", "inferno"
WEIGHT = 0.62
"""How much of a pixel is heat; the rest is picture. Where heat has two signs its middle is white, and weighs less."""
FAINTEST = 0.2


def overlay(
    picture: Image.Image, heat_HW: Tensor, *, signed: bool = False, largest: float | None = None
) -> Image.Image:
    """The picture with heat over it: dark to bright, or, if it is signed, blue (against) to red (for). What has no heat
    (NaN: the model does not see it) stays a fainter picture.

    Args:
        picture: the original.
        heat_HW: one value a pixel of it.
        signed: whether heat can be negative.
        largest: what has full colour, so that several maps have one scale; the largest heat by size if it is left out.
    """
    heat = heat_HW.numpy()
    largest = largest or float(np.nanmax(np.abs(heat), initial=0.0)) or 1.0
    scaled = (heat / largest + 1) / 2 if signed else heat / largest
    colours = matplotlib.colormaps[SIGNED if signed else UNSIGNED](np.nan_to_num(scaled))[..., :3]
    size = np.nan_to_num(np.abs(heat) / largest)[..., None]
    weight = FAINTEST + (1 - FAINTEST) * np.sqrt(size) if signed else np.full_like(size, WEIGHT)
    seen = np.isfinite(heat)[..., None]
    ground = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    weight, over = np.where(seen, weight, WEIGHT), np.where(seen, colours, 1.0)
    mixed = (1 - weight) * ground + weight * over
    return Image.fromarray((mixed * 255).round().astype(np.uint8))
