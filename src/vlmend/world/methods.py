"""The method table's rows: which editors are measured on the demo models, with which settings.

They are those of MMEdit's table under its names, those of VisEdit's, what vlmend has beyond, and the controls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlmend.editors.base import Labelled, editor
from vlmend.editors.shelf import Shelved
from vlmend.errors import EditError
from vlmend.models.vlm import VLM

__all__ = ["METHODS", "methods_for"]

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ft-last": ("ft", {"layers": "last", "modules": ("mlp.up", "mlp.down"), "lr": 3e-3}),
    "ft-vision": ("ft", {"modules": ("connector",), "lr": 3e-3}),
    "ft": ("ft", {"lr": 3e-3}),
    "lora": ("lora", {}),
    "ke": ("ke", {}),
    "mend": ("mend", {}),
    "serac": ("serac", {}),
    "t-patcher": ("t-patcher", {}),
    "lte": ("lte", {}),
    "ultraedit": ("ultraedit", {}),
    "visual-delta": ("visual-delta", {}),
    "vead": ("vead", {}),
    "vead-memory": ("vead-memory", {}),
    "null": ("null", {}),
    "random": ("random", {}),
    "parrot": ("parrot", {}),
    "image-blind": ("image-blind", {}),
    "oracle": ("oracle", {}),
}
"""Name in the table -> editor and settings. MMEdit's "last" is the decoder's last layer, its "vision" the connector."""


def methods_for(vlm: VLM, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Name and editor of each; ``None`` for one that must be trained for the model and is not."""
    for name in names:
        which, settings = METHODS[name]
        made: Any = editor(which, **settings)
        try:
            own: Any = made
            if isinstance(own, Shelved):
                own.shelved(vlm)
            yield name, made if name == which else Labelled(made, name)
        except EditError:
            yield name, None
