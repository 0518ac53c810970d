"""Many variants of one row at once: the same tokens in every row of a batch, each with its own change of states."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from vlmend.attribution.target import Measure, Strand
from vlmend.models.parts import Parts
from vlmend.models.prepared import Features, Prepared
from vlmend.models.trace import rewritten
from vlmend.models.vlm import VLM

__all__ = ["apart", "chunks", "encoding_graph", "entering", "patches", "patches_altered", "values"]

_T = TypeVar("_T")


def entering(parts: Parts, layer: int) -> nn.Module:
    """The module that states enter at a layer; for the number of layers it is the final norm."""
    return parts.layers[layer] if layer < len(parts.layers) else parts.norm


def values(
    vlm: VLM, strand: Strand, prepared: Prepared, of: Measure, *, first: int | None = None, grad: bool = False
) -> Tensor:
    """The strand's value in every row of a batch, run from stage ``first`` on: [B]."""
    rows = vlm.run(prepared, first=first, grad=grad).rows
    return torch.stack([strand.value(row.logits_NV, of) for row in rows])


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Items in groups."""
    return (items[start : start + size] for start in range(0, len(items), size))


def apart(prepared: Prepared, count: int) -> Prepared:
    """A row many times, its pictures encoded for each of them: for what changes inside the vision encoder."""
    (row,) = prepared.rows
    key = row.picture or ""
    keys = [f"{key}#{index}" for index in range(count)]
    return Prepared(
        rows=tuple(replace(row, picture=one) for one in keys),
        pictures=dict.fromkeys(keys, prepared.pictures[key]),
        features=Features(),
        told=prepared.told,
    )


def patches(encoded_BTD: Tensor, count: int) -> Tensor:
    """The patches among what the vision encoder hands on, without class tokens: [picture, patch, D]."""
    return encoded_BTD[:, -count:]


@contextmanager
def patches_altered(vlm: VLM, count: int, change: Callable[[int, Tensor], Tensor]) -> Generator[None, None, None]:
    """Within the block rows that are encoded apart, of one picture each, have other patches.

    Args:
        vlm: whose encoder's output is changed.
        count: how many patches a picture has.
        change: given the row's index and its patches [P, D], makes new ones.
    """
    done = 0

    def alter(encoded_BTD: Tensor) -> Tensor:
        nonlocal done
        changed = [
            torch.cat([row[:-count], change(index, row[-count:])]) for index, row in enumerate(encoded_BTD, done)
        ]
        done += len(changed)
        return torch.stack(changed)

    with rewritten({vlm.parts.vision: alter}):
        yield


@contextmanager
def encoding_graph(vlm: VLM) -> Generator[None, None, None]:
    """Within the block pictures are encoded with a graph, so that gradients reach what stands inside the encoder."""
    parameter = next(vlm.parts.connector.parameters())
    before = parameter.requires_grad
    parameter.requires_grad_(True)  # pictures are encoded with a graph for as long as something out there is trained
    try:
        yield
    finally:
        parameter.requires_grad_(before)
