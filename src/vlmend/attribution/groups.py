"""Tokens of a prompt in groups, as causal methods take them together."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmend.attribution.target import Strand

__all__ = ["around", "groups_of"]


def groups_of(strand: Strand) -> dict[str, Tensor]:
    """Positions of each group, in their order; groups without any are left out.

    "picture": the visual tokens; "before" and "after": the words before the first of them and after it; "last": the
    positions that predict the target's tokens.
    """
    visual_T = strand.row.visual_T
    last = torch.tensor(strand.positions)
    places = torch.arange(len(visual_T))
    words = places[~visual_T & ~torch.isin(places, last)]
    first = int(strand.visual[0]) if len(strand.visual) else len(visual_T)
    found = {"before": words[words < first], "picture": strand.visual, "after": words[words > first], "last": last}
    return {name: positions for name, positions in found.items() if len(positions)}


def around(layer: int, window: int | float, count: int) -> tuple[int, ...]:
    """The layers of a window around one, cut at the ends; as a share of all layers if it is no integer."""
    width = max(1, window if isinstance(window, int) else round(window * count))
    start = layer - (width - 1) // 2
    return tuple(range(max(0, start), min(count, start + width)))
