"""A model's tensors under the names they have on disk, and the fingerprint over them.

transformers renames tensors while it loads; names in memory change between its versions, those on disk do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

__all__ = ["disk_names", "fingerprint"]

_DIGITS = 16


def disk_names(model: Any) -> dict[str, str]:
    """On-disk name -> name in memory, for every parameter that is one tensor in both."""
    memory: Mapping[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    places: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in memory.items():
        places.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    named: dict[str, str] = {}
    for disk, tensor in revert_weight_conversion(model, dict(memory)).items():
        candidates = places.get((tensor.data_ptr(), tensor.shape), [])
        if candidates:
            named[disk] = max(candidates, key=lambda name: _common_suffix(disk, name))
    return named


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A short hash of named weights, rounded to bfloat16.

    The rounding makes it that of the checkpoint: loaded in float32 or in bfloat16, it is the same.
    """
    total = hashlib.blake2b(digest_size=_DIGITS)
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        rounded = tensor.detach().to(device="cpu", dtype=torch.bfloat16).contiguous()
        total.update(f"{name} {tuple(tensor.shape)}\n".encode())
        total.update(rounded.view(torch.uint8 if rounded.dim() else torch.int16).numpy().tobytes())
    return total.hexdigest()


def _common_suffix(one: str, other: str) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(reversed(one), reversed(other), strict=False)) if a != b),
        min(len(one), len(other)),
    )
