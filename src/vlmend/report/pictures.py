"""Pictures for embedding: any picture as a data URI, small ones untouched, large ones scaled down."""

from __future__ import annotations

import base64
import io

from PIL import Image

__all__ = ["data_uri", "encode", "is_pixel_art"]

LARGEST = 640
PIXEL_ART = 200


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
