"""The pictures of mDPO's image side: of a pair's picture one that shows less, so that the chosen answer fits it worse.

A new way is one line in `CONTRASTS`: a function of a picture and of what draws.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from PIL import Image

__all__ = ["CONTRASTS", "Contrast", "black", "crop"]

Contrast = Callable[[Image.Image, random.Random], Image.Image]

_LEAST, _MOST = 0.01, 0.2


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


CONTRASTS: Mapping[str, Contrast] = {"crop": crop, "black": black}
"""Name -> how a picture is made to show less."""
