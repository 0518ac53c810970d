"""Pictures for embedding: any picture as a data URI, small ones untouched, large ones scaled down."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

if TYPE_CHECKING:
    from vlmend.report.content import Picture

__all__ = ["data_uri", "encode", "is_pixel_art", "open_picture"]

LARGEST = 640
PIXEL_ART = 200


def open_picture(picture: Picture) -> Image.Image:
    """The picture in RGB and upright, from a file or as it is."""
    if isinstance(picture, Path):
        with Image.open(picture) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    return picture.convert("RGB")


def is_pixel_art(image: Image.Image) -> bool:
    """Small pictures are enlarged with hard pixels, so that every pixel the model saw is seen."""
    return max(image.size) <= PIXEL_ART


def data_uri(image: Image.Image, largest: int = LARGEST) -> str:
    """The picture as a `data:` address: lossless when small, JPEG at most `largest` wide when not."""
    buffer = io.BytesIO()
    if is_pixel_art(image):
        image.save(buffer, format="PNG", optimize=True)
        return encode("image/png", buffer.getvalue())
    image = image.copy()
    image.thumbnail((largest, largest))
    image.save(buffer, format="JPEG", quality=85)
    return encode("image/jpeg", buffer.getvalue())


def encode(mime: str, content: bytes) -> str:
    """Bytes as a `data:` address."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
