"""Which rows are run together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlmend.models.prefix import beginning
from vlmend.models.prepared import Row

__all__ = ["about_one_picture", "of_like_length"]

_PADDING = 256  # tokens of padding that one more row may cost a batch: about what a batch of its own would


def of_like_length(rows: Mapping[int, Row], most: int) -> list[list[int]]:
    """Indices of the rows in groups of at most ``most``, the shortest first; none has much padding."""
    lengths = {index: len(row.ids_T) + len(row.target_N) for index, row in rows.items()}
    groups: list[list[int]] = []
    for index in sorted(rows, key=lengths.__getitem__):
        last = groups[-1] if groups else []
        wasted = len(last) * (lengths[index] - lengths[last[-1]]) if last else 0
        if last and len(last) < most and wasted <= _PADDING:
            last.append(index)
        else:
            groups.append([index])
    return groups


def about_one_picture(rows: Mapping[int, Row], most: int) -> list[list[int]]:
    """Indices of rows that begin alike for so long that the beginning is worth a run of its own, group by group."""
    by_picture: dict[str, list[int]] = {}
    for index, row in rows.items():
        if row.picture is not None:
            by_picture.setdefault(row.picture, []).append(index)
    parts = (group[start : start + most] for group in by_picture.values() for start in range(0, len(group), most))
    return [part for part in parts if (len(part) - 1) * beginning(_rows(rows, part)) > _PADDING]


def _rows(rows: Mapping[int, Row], indices: Sequence[int]) -> list[Row]:
    return [rows[index] for index in indices]
