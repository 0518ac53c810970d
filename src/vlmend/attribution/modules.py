"""The two modules of a decoder layer, and what each of them really adds to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlmend.errors import AttributionError
from vlmend.models.parts import Parts
from vlmend.models.trace import Call, rewritten

__all__ = ["MODULES", "Added", "added", "modules_of"]

MODULES = ("attention", "mlp")
"""In the order in which a layer adds them."""

_ROLES = {"attention": "attn", "mlp": "mlp"}
_TOLERANCE = 1e-4


def modules_of(parts: Parts, layer: int) -> dict[str, nn.Module]:
    """A layer's two modules; of an MLP that is written as several modules it is the last, which makes the output.

    Raises:
        PartsError: the layer has none of a known name.
    """
    return {name: next(reversed(parts.modules([layer], [role]).values())) for name, role in _ROLES.items()}


@dataclass(frozen=True, eq=False)
class Added:
    """What one layer did to the states: ``entered + attention + mlp = left``.

    Attributes:
        attention_BTD, mlp_BTD: what each module added.
        left_BTD: what the layer handed on.
    """

    attention_BTD: Tensor
    mlp_BTD: Tensor
    left_BTD: Tensor


@torch.no_grad()
def added(parts: Parts, layer: int, call: Call) -> Added:
    """What a layer's modules added in a call.

    It is not read off their outputs, which may be normed or scaled on their way (sandwich norms, residual multipliers),
    but is the difference that each makes: the layer is called again with its MLP silent, and with both silent, when it
    must hand on what it was given.

    Raises:
        AttributionError: with both silent it does not, so that its modules do not add to a residual stream.
    """

    def again(*silent: str) -> Tensor:
        modules = modules_of(parts, layer)
        with rewritten({modules[name]: torch.zeros_like for name in silent}):
            output = parts.layers[layer](*call.args, **call.kwargs)
        return output.detach()

    entered_BTD = call.input
    assert entered_BTD is not None
    nothing_BTD = again(*MODULES)
    scale = float(entered_BTD.abs().max().clamp(min=1e-12))
    if float((nothing_BTD - entered_BTD).abs().max()) > _TOLERANCE * scale:
        kind = type(parts.layers[layer]).__name__
        raise AttributionError(f"layer {layer} ({kind}) does not add what its modules give to the states that enter it")
    middle_BTD, left_BTD = again("mlp"), again()
    return Added(middle_BTD.float() - entered_BTD.float(), left_BTD.float() - middle_BTD.float(), left_BTD.float())
