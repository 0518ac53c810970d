"""A torchvision that is installed but cannot be imported (its binary is for another torch) breaks every processor of
transformers, which asks only whether it is installed. Here it is noticed, and hidden: Pillow does its work."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from transformers.utils import import_utils

__all__ = ["do_without_broken_torchvision", "torchvision_problem"]

_NAME = "torchvision"
_hidden: list[str] = []


def torchvision_problem() -> str | None:
    """Why the installed torchvision cannot be imported; ``None`` if it can be, or if there is none."""
    if _hidden:
        return _hidden[0]
    if importlib.util.find_spec(_NAME) is None:
        return None
    try:
        importlib.import_module(_NAME)
    except Exception as error:  # a broken binary may raise anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def do_without_broken_torchvision() -> None:
    """Hide a torchvision that cannot be imported from everything in this process."""
    problem = torchvision_problem()
    if problem is None or _hidden:
        return
    _hidden.append(problem)
    sys.modules[_NAME] = None  # pyright: ignore[reportArgumentType]  # Python's way to say that it is not there
    for known in (import_utils.is_torchvision_available, import_utils.is_torchvision_v2_available):
        known.cache_clear()
