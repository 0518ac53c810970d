"""Pictures that several questions are about: opened and processed once.

A processor takes a picture and a text together, and scales the picture anew for every text. Here a copy of it is given
an image processor that remembers what it made of the pictures that it saw last; what it makes of the text is its own.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlmend.models.pictures import Picture, content_hash, identity, open_picture

__all__ = ["Opened", "Remembering", "Seen"]

_REMEMBERED = 8  # pictures: questions of one mostly stand together


@dataclass(frozen=True, eq=False)
class Opened:
    """A picture as pixels, and what it is known by (`content_hash`)."""

    image: Image.Image
    content: str


class Seen:
    """The pictures that were asked about last. A file is taken to stay as it is for as long as this is used."""

    def __init__(self) -> None:
        self._last: OrderedDict[Any, tuple[Picture, Opened]] = (
            OrderedDict()
        )  # holds pictures, so that no id comes again

    def opened(self, image: Picture) -> Opened:
        """The picture, opened once.

        Raises:
            PromptError: the file is missing, truncated or no picture.
        """
        key = identity(image)
        if key not in self._last:
            pixels = open_picture(image)
            self._last[key] = (image, Opened(pixels, content_hash(pixels)))
        _shorten(self._last, key)
        return self._last[key][1]


class Remembering:
    """A processor that does as another does now, with pictures processed once for the texts that follow each other."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._copy: Any = None

    def __call__(self, **given: Any) -> Any:
        own = getattr(self._processor, "image_processor", None)
        if own is None:
            return self._processor(**given)
        if self._copy is None or self._copy.image_processor.processor is not own:
            self._copy = copy.copy(self._processor)
            self._copy.image_processor = _Once(own)
        return self._copy(**given)


class _Once:
    """An image processor that remembers what it made, as long as its settings are the same."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._last: OrderedDict[Any, tuple[Any, Any]] = OrderedDict()

    def __call__(self, images: Any, *args: Any, **settings: Any) -> Any:
        names = _ids(images)
        if args or names is None:
            return self.processor(images, *args, **settings)
        key = (names, repr(sorted(settings.items())), repr(vars(self.processor)))
        if key not in self._last:
            self._last[key] = (images, self.processor(images, **settings))
        _shorten(self._last, key)
        return copy.copy(self._last[key][1])  # processors take out of it what they have read

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "processor":  # while it is copied there is nothing to ask yet
            raise AttributeError(name)
        return getattr(self.processor, name)


def _ids(images: Any) -> Any:
    """The identities of pictures, in lists as they are; ``None`` where there is something else."""
    if isinstance(images, Image.Image):
        return id(images)
    if not isinstance(images, list | tuple):
        return None
    found = tuple(map(_ids, images))
    return None if None in found else found


def _shorten(last: OrderedDict[Any, Any], key: Any) -> None:
    """Let a key be the last that was used, and forget those that were not for long."""
    last.move_to_end(key)
    while len(last) > _REMEMBERED:
        last.popitem(last=False)
