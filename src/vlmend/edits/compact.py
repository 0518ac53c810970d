"""Many edits as one that takes no more room than the weights they change."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vlmend.edits.edit import Edit
from vlmend.edits.ops import Op, WeightOp

__all__ = ["compact"]


def compact(edit: Edit) -> Edit:
    """The same edit with all that it adds to weights added up, in float32: equal but for rounding.

    What replaces weights, and what several edits share, is left as it is, and so are all other operations.
    """
    adding = [op for op in edit.ops if isinstance(op, WeightOp) and op.shared is None]
    if any(change.form == "value" for op in adding for change in op.changes.values()):
        return edit  # what comes before a value counts for nothing: the order matters
    total: dict[str, Tensor] = {}
    for op in adding:
        for name, change in op.changes.items():
            total[name] = change.fold(total.get(name, torch.zeros(change.shape)))
    if len(adding) < 2:
        return edit
    ops: list[Op] = [op for op in edit.ops if op not in adding]
    return replace(edit, ops=(WeightOp.deltas(total), *ops))
