"""The pictures of mDPO's image side: of a pair's picture one that shows less, so that the chosen answer fits it worse.

A new way is one line in `CONTRASTS`: a function of a picture and of what draws.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import torch
from PIL import Image

from vlmend.alignment.weaken import noisy

__all__ = ["CONTRASTS", "Contrast", "black", "crop", "noise"]

Contrast = Callable[[Image.Image, random.Random], Image.Image]

_LEAST, _MOST = 0.01, 0.2
_STEP = 500


def crop(picture: Image.Image, draw: random.Random) -> Image.Image:
    """A piece of it, of at most a fifth of its area and of its own shape, anywhere; as large as it was.

    mDPO, arXiv 2406.11839, section 3: the crop "keeps 0 to 20 %".
    """
    side = draw.uniform(_LEAST, _MOST) ** 0.5
    width, height = (max(1, round(side * length)) for length in picture.size)
    left, top = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
    piece = picture.crop((left, top, left + width, top + height))
    return piece.resize(picture.size, Image.Resampling.BICUBIC)


def black(picture: Image.Image, draw: random.Random) -> Image.Image:
    """Nothing at all."""
    return Image.new("RGB", picture.size)


def noise(picture: Image.Image, draw: random.Random) -> Image.Image:
    """The picture under the noise of a diffusion model (`weaken.py`), at step 500 as CHiP has it (arXiv 2501.16629)."""
    return noisy(picture, torch.Generator().manual_seed(draw.getrandbits(48)), _STEP)


CONTRASTS: Mapping[str, Contrast] = {"crop": crop, "black": black, "noise": noise}
"""Name -> how a picture is made to show less."""
