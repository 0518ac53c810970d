"""What was trained for editors: weights for one model each, saved in folders, and found by the model's fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from vlmend.errors import EditError, EditFormatError
from vlmend.models.vlm import VLM
from vlmend.runs import whole, write_json

__all__ = ["SHIPPED", "Shelved", "Trained", "trained_for"]

T = TypeVar("T")

SHIPPED = Path(__file__).parent / "weights"
"""What comes with the package, for the bundled models."""

_JSON, _TENSORS = "adapter.json", "adapter.safetensors"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Trained:
    """The trained part of an editor.

    Attributes:
        editor: whose.
        base: fingerprint of the model it was trained for.
        facts: what must be known to use the tensors, as JSON values.
        tensors: the weights.
        about: how they came about, as JSON values.
    """

    editor: str
    base: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write ``adapter.json`` and ``adapter.safetensors``.

        Raises:
            WriteError: they cannot be written.
        """
        with whole(folder / _TENSORS) as part:
            part.write_bytes(save_tensors(dict(self.tensors)))
        plain = {"format": _FORMAT, "editor": self.editor, "base": self.base, "facts": dict(self.facts)}
        write_json(folder / _JSON, {**plain, "about": dict(self.about)})

    @classmethod
    def load(cls, folder: Path) -> Trained:
        """Read them, in float32 also where they were saved shorter.

        Raises:
            EditFormatError: they are incomplete, damaged, or of a later format.
        """
        try:
            about: Any = json.loads((folder / _JSON).read_text(encoding="utf-8"))
            if about["format"] != _FORMAT:
                raise EditFormatError(f"{folder} has format {about['format']}; this version reads {_FORMAT}")
            saved = load_tensors((folder / _TENSORS).read_bytes())
            tensors = {name: one.float() if one.is_floating_point() else one for name, one in saved.items()}
            return cls(about["editor"], about["base"], about["facts"], tensors, about["about"])
        except FileNotFoundError as error:
            raise EditFormatError(
                f"{folder} holds no trained weights: {Path(error.filename).name} is missing"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise EditFormatError(f"{folder} is damaged: {error}") from error


class Shelved(Generic[T]):
    """An editor, a frozen dataclass, whose trained part is read once for each model.

    Attributes:
        weights: its folder, or one with several such folders in it; ``None`` for what comes with the package.
    """

    name: ClassVar[str]
    weights: str | None

    @classmethod
    def pretrained(cls, folder: Path | str | None = None) -> Self:
        """The editor with the weights in a folder; without one, with those that come with the package."""
        return cls(None if folder is None else str(folder))  # type: ignore[call-arg]

    def shelved(self, vlm: VLM) -> T:
        """What was read for a model: its edits share it.

        Raises:
            EditError: there are no weights for this model.
        """
        if vlm.fingerprint not in self._shelved:
            self._shelved[vlm.fingerprint] = self.read(trained_for(self.name, vlm, self.weights), vlm)
        return self._shelved[vlm.fingerprint]

    def read(self, trained: Trained, vlm: VLM) -> T:
        """What is used of what was saved.

        Raises:
            EditFormatError: it is another editor's.
        """
        raise NotImplementedError

    @cached_property
    def _shelved(self) -> dict[str, T]:
        return {}


def trained_for(editor: str, vlm: VLM, where: str | None) -> Trained:
    """The weights that were trained for an editor and a model.

    Args:
        editor: its name.
        vlm: the model.
        where: a folder of such weights, or one with several such folders in it; ``None`` for those that come with the
            package.

    Raises:
        EditError: there are none for this model.
    """
    shelf = SHIPPED if where is None else Path(where)
    folders = [shelf] if (shelf / _JSON).exists() else sorted(path.parent for path in shelf.glob(f"*/{_JSON}"))
    found = [Trained.load(folder) for folder in folders]
    for one in found:
        if (one.editor, one.base) == (editor, vlm.fingerprint):
            return one
    there = "it comes with none" if where is None else f"'{where}' has none"
    raise EditError(
        f"{editor} needs weights that were trained for this model (fingerprint {vlm.fingerprint}), and {there}: "
        f"run 'vlmend train-editor {editor} MODEL CASES --out DIR', then set weights=DIR"
    )
