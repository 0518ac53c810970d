"""Pictures on the page: small ones lossless, large ones scaled."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from vlmend.report.pictures import data_uri, is_pixel_art


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_small_picture_is_lossless() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    uri = data_uri(Image.fromarray(noise))
    assert uri.startswith("data:image/png;base64,")
    assert (np.asarray(decode(uri)) == noise).all()


def test_large_picture_is_scaled_down_and_the_original_is_left_alone() -> None:
    image = Image.new("RGB", (2000, 1000), "green")
    assert not is_pixel_art(image)
    assert decode(data_uri(image)).size == (640, 320)
    assert image.size == (2000, 1000)
