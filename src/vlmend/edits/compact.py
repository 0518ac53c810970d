"""Many edits as one that takes no more room than the weights they change."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vlmend.edits.edit import Edit
from vlmend.edits.ops import WeightOp
from vlmend.models.intervene import joined

__all__ = ["compact"]


def compact(edit: Edit, device: torch.device | str = "cpu") -> Edit:
    """The same edit with all that it adds to weights added up, in float32, and its memories and neurons joined.

    It does the same but for rounding. Of memories and pools with two entries for the same request the later one alone
    is left. What replaces weights, and what several edits share, is left as it is.

    Args:
        edit: with all that it does.
        device: where it is added up.
    """
    adding = [op for op in edit.ops if isinstance(op, WeightOp) and op.shared is None]
    if len(adding) < 2 or any(change.form == "value" for op in adding for change in op.changes.values()):
        adding = []  # what comes before a value counts for nothing: the order matters
    total: dict[str, Tensor] = {}
    for op in adding:
        for name, change in op.changes.items():
            total[name] = change.fold(total[name] if name in total else torch.zeros(change.shape, device=device))
    sums = [WeightOp.deltas(total)] if adding else []
    ops = joined([*sums, *(op for op in edit.ops if op not in adding)])
    return replace(edit, ops=ops) if len(ops) < len(edit.ops) else edit
