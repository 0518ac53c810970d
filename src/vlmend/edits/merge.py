"""Edits written into a plain checkpoint, which then needs neither them nor this package. What they leave for edits made
on top of them (`vlmend.edits.left`) is not in it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

from vlmend.edits.edit import Edit, stacked
from vlmend.edits.left import LeftOp
from vlmend.edits.ops import WeightOp
from vlmend.errors import EditError
from vlmend.models.loading import quiet
from vlmend.models.vlm import VLM

__all__ = ["merge"]


def merge(vlm: VLM, edits: Sequence[Edit], folder: Path | str) -> Path:
    """Save the model with edits folded into its weights, and its processor, as transformers does.

    The weights are saved in the type they are loaded in, so load the model in its checkpoint's own to keep the size.

    Raises:
        EditError: there is no edit, one of them does more than change weights, the folder is taken, or it cannot be
            written; nothing half-written is left.
        FingerprintError: an edit was made for other weights.
    """
    folder = Path(folder)
    together = stacked(edits)
    if other := sorted({op.kind for op in together.ops if not isinstance(op, WeightOp | LeftOp)}):
        raise EditError(
            f"operations of kind {', '.join(other)} cannot be merged into weights; keep the edit beside them"
        )
    if folder.exists():
        raise EditError(f"{folder} exists; a merged model is written to a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as part,
            vlm.using(together),
            quiet(),
        ):
            made = Path(part) / "model"
            vlm.model.save_pretrained(made)
            vlm.processor.save_pretrained(made)
            made.replace(folder)
    except (OSError, SafetensorError) as error:
        raise EditError(f"{folder} cannot be written: {error}") from error
    return folder
