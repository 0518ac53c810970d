"""Pictures as content: opened, decoded, and known by a hash of their pixels."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from vlmend.errors import PromptError
from vlmend.runs import whole

__all__ = ["Picture", "Pictures", "content_hash", "identity", "listed", "open_picture", "save_picture"]

Picture = Path | Image.Image
Pictures = Picture | tuple[Picture, ...] | None
"""No picture, one, or several in their order."""


_DIGITS = 16


def listed(images: Pictures) -> tuple[Picture, ...]:
    """The pictures one by one."""
    if images is None:
        return ()
    return images if isinstance(images, tuple) else (images,)


def identity(image: Picture) -> Any:
    """Equal for what is the same file or the same picture in memory, without a look at its pixels."""
    return id(image) if isinstance(image, Image.Image) else image


def open_picture(image: Picture) -> Image.Image:
    """Decode a picture to RGB, turned as its camera says.

    Raises:
        PromptError: the file is missing, truncated or no picture.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    try:
        with Image.open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # a damaged file raises whatever its decoder comes upon
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise PromptError(f"cannot read the picture {image}: {reason}") from error


def content_hash(picture: Image.Image) -> str:
    """Equal for pictures of equal size and pixels, whatever file they come from."""
    digest = hashlib.blake2b(f"{picture.mode} {picture.size}".encode(), digest_size=_DIGITS)
    digest.update(picture.tobytes())
    return digest.hexdigest()


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a picture, whole or not at all; its ending chooses the format, PNG where it names none.

    Raises:
        WriteError: it cannot be written.
    """
    content = io.BytesIO()  # written to a file, some formats hide that the disk is full
    picture.save(content, Image.registered_extensions().get(path.suffix.lower(), "PNG"), optimize=True)
    with whole(path) as part:
        part.write_bytes(content.getbuffer())
    return path
