"""The models that are committed with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUNDLED", "bundled_folder"]

_WEIGHTS = Path(__file__).parent / "weights"

BUNDLED = {"demo": "demo-llava"} | {name: name for name in ("demo-llava", "demo-blip2", "demo-minigpt4")}
"""Name -> folder of weights."""


def bundled_folder(name: str) -> Path | None:
    """The folder of a bundled model; ``None`` if there is none of that name or it is not installed."""
    folder = _WEIGHTS / BUNDLED[name] if name in BUNDLED else None
    return folder if folder is not None and (folder / "config.json").is_file() else None
