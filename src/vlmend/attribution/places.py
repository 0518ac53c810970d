"""Where an example's visual representations lie in its pictures, and which of them are neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmend.data.records import Example
from vlmend.errors import AttributionError
from vlmend.models.layout import Layout, Place, layout
from vlmend.models.vlm import VLM

__all__ = ["check_picture", "layout_of", "windows"]


def check_picture(example: Example) -> None:
    """Refuse what has no picture.

    Raises:
        AttributionError: it has none.
    """
    if not example.pictures:
        raise AttributionError(f"the question {example.question!r} has no picture to attribute an answer to")


def layout_of(vlm: VLM, example: Example) -> Layout:
    """The places of an example's visual tokens, or of the encoder's patches (`vlmend.models.layout`).

    Raises:
        AttributionError: it has no picture.
    """
    check_picture(example)
    return layout(vlm, example)


def windows(places: Sequence[Place], sizes: Sequence[tuple[int, int]], radius: int | float) -> Tensor:
    """The window around each place: bool [place, neighbour]; each belongs to its own.

    Neighbours lie within a distance, across and down, of the place's middle, in the same picture: in every tile and
    scale that shows that part of it. A place that shows nothing has no neighbours.

    Args:
        places: of one example.
        sizes: width and height of its pictures.
        radius: in cells, if it is an integer (VisEdit's, whose grid is 24 by 24, is 3); else as a share of the
            picture's sides, so that the window grows with the grid (0.125 of 24 cells are 3).

    Raises:
        AttributionError: a negative radius.
    """
    if radius < 0:
        raise AttributionError(f"a window's radius is not negative: {radius}")
    unseen = (torch.nan,) * 4
    boxes_P4 = torch.tensor([place.box or unseen for place in places], dtype=torch.float64).reshape(-1, 4)
    pictures_P = torch.tensor([place.picture for place in places])
    middles_P2 = (boxes_P4[:, :2] + boxes_P4[:, 2:]) / 2
    cells_P2 = boxes_P4[:, 2:] - boxes_P4[:, :2]
    if isinstance(radius, int):
        steps_P2 = torch.full_like(cells_P2, radius)
    else:
        sides_P2 = torch.tensor(sizes, dtype=torch.float64)[pictures_P]
        steps_P2 = (radius * sides_P2 / cells_P2).round()
    reach_P2 = (steps_P2 + 0.5) * cells_P2
    apart_PP2 = (middles_P2[:, None] - middles_P2[None]).abs()
    near_PP = (apart_PP2 <= reach_P2[:, None]).all(-1) & (pictures_P[:, None] == pictures_P[None])
    return near_PP | torch.eye(len(places), dtype=torch.bool)
