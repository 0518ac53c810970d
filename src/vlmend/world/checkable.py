"""What an answer about the demo world says that can be checked: its words are known, all of them."""

from __future__ import annotations

from vlmend.alignment.checkable import NUMBERS, PLACES, YES_NO, Checkable
from vlmend.world.catalog import catalog

__all__ = ["checkable"]


def checkable() -> Checkable:
    """Kinds of object, colours, patterns, numbers, places, corners, yes and no."""
    world = catalog()
    return Checkable(
        {
            "object": dict.fromkeys(world.kinds, ()),
            "colour": dict.fromkeys(world.colours, ()),
            "pattern": dict.fromkeys(world.patterns, ()),
            "count": NUMBERS,
            "scene": dict.fromkeys(world.places, ()),
            "place": PLACES,
            "yes or no": YES_NO,
        }
    )
