"""Which rows are run together."""

from __future__ import annotations

from collections.abc import Mapping

from vlmend.models.prefix import beginning, name_of
from vlmend.models.prepared import Row

__all__ = ["by_beginning", "by_opening", "of_like_length", "worth_sharing"]

_PADDING = 256  # tokens of padding that one more row may cost a batch: about what a batch of its own would


def of_like_length(rows: Mapping[int, Row], most: int) -> list[list[int]]:
    """Indices of the rows in groups of at most ``most``, the shortest first; none has much padding.

    Rows whose pictures layers look at are grouped by how many they have: see `crossing.py`.
    """
    looked_at: dict[int, dict[int, Row]] = {}
    for index, row in rows.items():
        looked_at.setdefault(0 if row.in_stream else len(row.pictures), {})[index] = row
    return [group for some in looked_at.values() for group in _of_like_length(some, most)]


def _of_like_length(rows: Mapping[int, Row], most: int) -> list[list[int]]:
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


def by_opening(rows: Mapping[int, Row], most: int) -> list[list[int]]:
    """As `of_like_length`; of rows with openings those that are equally long, as their openings are."""
    alike: dict[tuple[int, int], dict[int, Row]] = {}
    for index, row in rows.items():
        alike.setdefault((row.opened, len(row.ids_T) if row.opened else 0), {})[index] = row
    return [group for some in alike.values() for group in of_like_length(some, most)]


def by_beginning(rows: Mapping[int, Row], most: int) -> list[list[int]]:
    """As `of_like_length`, of rows with equally many tokens up to the last of their picture."""
    alike: dict[int, dict[int, Row]] = {}
    for index, row in rows.items():
        alike.setdefault(beginning(row), {})[index] = row
    return [group for some in alike.values() for group in of_like_length(some, most)]


def worth_sharing(rows: Mapping[int, Row]) -> list[list[int]]:
    """Indices of rows that begin equally long, where running each beginning once saves more than it costs."""
    alike: dict[int, list[int]] = {}
    for index, row in rows.items():
        alike.setdefault(beginning(row), []).append(index)
    return [some for count, some in alike.items() if count * _repeated(rows, some, count) > _PADDING]


def _repeated(rows: Mapping[int, Row], some: list[int], count: int) -> int:
    """How many of the rows begin as another does."""
    return len(some) - len({name_of(rows[index], count) for index in some})
