"""Edits on disk: a folder of ``edit.json`` (what it is) and ``edit.safetensors`` (its tensors), never pickle.

A tensor is stored under the name that `packing` gives it, and once if several operations share it. The folder appears
whole or not at all.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from vlmend.edits.edit import Edit, EditRequest
from vlmend.edits.packing import packed, unpacked
from vlmend.errors import EditError, EditFormatError

__all__ = ["FORMAT", "load", "save"]

FORMAT = 4
_READ = (3, FORMAT)  # format 3 shares no tensors
_JSON, _TENSORS = "edit.json", "edit.safetensors"


def save(edit: Edit, folder: Path | str) -> Path:
    """Write an edit; an edit that is there already is replaced.

    Raises:
        EditError: the path is taken by something else, or cannot be written; nothing half-written is left.
    """
    folder = Path(folder)
    if folder.exists() and not _replaceable(folder):
        raise EditError(f"{folder} exists and is not the folder of an edit")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as part:
            made = Path(part) / "new"
            made.mkdir()
            ops, tensors = packed(edit.ops)
            stored, shared = _once(tensors)
            save_file(stored, made / _TENSORS)
            content = json.dumps(_plain(edit, ops, shared), indent=2, ensure_ascii=False)
            (made / _JSON).write_text(content + "\n", encoding="utf-8")
            if folder.exists():
                folder.replace(Path(part) / "old")
            made.replace(folder)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{folder} cannot be written: {error}") from error
    return folder


def load(folder: Path | str) -> Edit:
    """Read an edit.

    Raises:
        EditFormatError: the folder is incomplete, damaged, or of a later format.
    """
    folder = Path(folder)
    try:
        about: Any = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        tensors = load_tensors((folder / _TENSORS).read_bytes())
        if about["format"] not in _READ:
            raise EditFormatError(f"{folder} has edit format {about['format']}; this version reads {FORMAT}")
        tensors |= {name: tensors[stored] for name, stored in about.get("shared", {}).items()}
        edit = Edit(
            base=about["base"],
            ops=unpacked(about["ops"], tensors),
            requests=tuple(_request(**request) for request in about["requests"]),
            method=about["method"],
            settings=about["settings"],
            model=about["model"],
            fitted_on=tuple(about["fitted_on"]),
            chosen=about.get("chosen", {}),
            proof=about["proof"],
            versions=about["versions"],
        )
    except FileNotFoundError as error:
        raise EditFormatError(f"{folder} holds no edit: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, EditError) as error:
        if isinstance(error, EditFormatError):
            raise
        raise EditFormatError(f"{folder} is damaged: {error}") from error
    if edit.id != about["id"]:
        raise EditFormatError(f"{folder} is damaged: its tensors are not those it was saved with")
    return edit


def _request(images: list[str], **asked: Any) -> EditRequest:
    return EditRequest(images=tuple(images), **asked)


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and {entry.name for entry in os.scandir(folder)} <= {_JSON, _TENSORS}


def _once(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The distinct tensors, and for each further name of one of them the name it is stored under."""
    first: dict[Any, str] = {}
    shared: dict[str, str] = {}
    for name, tensor in tensors.items():
        same = (tensor.data_ptr(), tensor.shape, tensor.dtype) if tensor.numel() else name
        if first.setdefault(same, name) != name:
            shared[name] = first[same]
    return {name: tensor for name, tensor in tensors.items() if name not in shared}, shared


def _plain(edit: Edit, ops: list[dict[str, Any]], shared: dict[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "id": edit.id,
        "base": edit.base,
        "model": edit.model,
        "method": edit.method,
        "settings": dict(edit.settings),
        "chosen": dict(edit.chosen),
        "requests": [asdict(request) for request in edit.requests],
        "fitted_on": list(edit.fitted_on),
        "ops": ops,
        "shared": shared,
        "versions": dict(edit.versions),
        "proof": None if edit.proof is None else dict(edit.proof),
    }
