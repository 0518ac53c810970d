"""The method table's rows: which editors are measured on the demo models, with which settings.

They are those of MMEdit's table under its names, those of VisEdit's, what vlmend has beyond, and the controls. Any
other registered editor is a row, too, under its own name and with its defaults, where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmend.editors.base import CONTROLS, EDITORS, Labelled, editor
from vlmend.editors.shelf import Shelved
from vlmend.errors import EditError, UnknownNameError
from vlmend.models.vlm import VLM

__all__ = ["FILES", "METHODS", "check_methods", "files_for", "methods_for"]

FILES = ("demonstrations", "reference")
"""Files that some methods need: other cases of the model's errors, and questions with right answers."""

_TOLD = {"fact": "new fact: {question} {answer}\n", "prompt": "prompt: "}  # in the words that demo models know

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ft-last": ("ft", {"layers": "last", "modules": ("mlp.up", "mlp.down"), "lr": 3e-3}),
    "ft-vision": ("ft", {"modules": ("connector",), "lr": 3e-3}),
    "ft": ("ft", {"lr": 3e-3}),
    "lora": ("lora", {}),
    "ke": ("ke", {}),
    "ike": ("ike", _TOLD),
    "ike-shown": ("ike", {**_TOLD, "demonstrations": "demonstrations", "count": 4}),
    "mend": ("mend", {}),
    "serac": ("serac", {}),
    "t-patcher": ("t-patcher", {}),
    "lte": ("lte", {}),
    "ultraedit": ("ultraedit", {}),
    "memit": ("memit", {"reference": "reference"}),
    "alphaedit": ("alphaedit", {"reference": "reference"}),
    "liveedit": ("liveedit", {}),
    "visual-delta": ("visual-delta", {}),
    "visual-exemplar": ("visual-exemplar", {"exemplars": "reference", "missing": "leave"}),
    "vead": ("vead", {}),
    "vead-memory": ("vead-memory", {}),
    "null": ("null", {}),
    "random": ("random", {}),
    "parrot": ("parrot", {}),
    "image-blind": ("image-blind", {}),
    "oracle": ("oracle", {}),
}
"""Name in the table -> editor and settings, files by their names in `FILES`. MMEdit's "last" is the decoder's last
layer, its "vision" the connector."""


def check_methods(names: Sequence[str]) -> None:
    """Refuse what is no row.

    Raises:
        UnknownNameError: neither a row of `METHODS` nor an editor has that name.
    """
    known = {*METHODS, *EDITORS, *CONTROLS}
    for name in names:
        if name not in known:
            raise UnknownNameError("row of the method table", name, known)


def files_for(names: Sequence[str]) -> set[str]:
    """Which of `FILES` these rows read."""
    return {value for name in names if name in METHODS for value in METHODS[name][1].values() if value in FILES}


def methods_for(vlm: VLM, names: Sequence[str], files: Mapping[str, Path]) -> Iterator[tuple[str, Any]]:
    """Name and editor of each; ``None`` for one that must be trained for the model and is not."""
    for name in names:
        which, settings = METHODS.get(name, (name, {}))
        placed = {setting: str(files[one]) for setting, one in settings.items() if one in FILES}
        made: Any = editor(which, **(settings | placed))
        try:
            own: Any = made
            if isinstance(own, Shelved):
                own.shelved(vlm)
            yield name, made if name == which else Labelled(made, name)
        except EditError:
            yield name, None
