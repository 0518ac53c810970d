"""Models of transformers in folders, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmend.errors import VlmendError
from vlmend.models.hub import check_place, reason
from vlmend.models.loading import quiet

__all__ = ["pretrained", "unusable"]


def pretrained(kind: Any, reader: Any, folder: str, what: str, *, fetch: bool = False) -> tuple[Any, Any]:
    """A model and its tokenizer or processor; weights are read from safetensors only.

    Args:
        kind, reader: the auto classes that load them.
        folder: of both.
        what: what it should be, for the complaint.
        fetch: whether ``folder`` may be a hub id, too; nothing is fetched for a folder.

    Raises:
        VlmendError: it is not there, is something else, is damaged, or lacks weights.
    """
    check_place(folder, VlmendError, hub=fetch)
    local = Path(folder).is_dir()
    try:
        with quiet():
            model, info = kind.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, local_files_only=local
            )
            beside = reader.from_pretrained(folder, local_files_only=local)
    except Exception as error:  # damaged files raise whatever their reader comes upon
        raise unusable(folder, what, error) from error
    if lacking := sorted(info["missing_keys"]):
        raise VlmendError(f"'{folder}' holds no whole {what}: it lacks {', '.join(lacking[:3])}")
    return model.eval(), beside


def unusable(folder: str, what: str, error: Exception) -> VlmendError:
    """The complaint about a folder, with why on one line."""
    return VlmendError(f"'{folder}' holds no {what}: {reason(error)}")
