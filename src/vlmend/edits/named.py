"""Maps whose weights are found by their names among tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

__all__ = ["linear", "norm", "under"]


def norm(x: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A layer norm: ``<name>.weight`` and ``<name>.bias``."""
    return functional.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def linear(x: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A linear map: ``<name>.weight`` and ``<name>.bias``."""
    return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by what follows."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
