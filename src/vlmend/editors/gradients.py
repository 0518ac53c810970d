"""The gradient of a request's loss at linear layers, in factored form: what `mend` and `ke` turn into edits.

Of a layer y = W x, W [out, in], that saw T tokens, the loss's gradient is

    dL/dW  =  sum_t delta_t u_t^T,     u_t = x_t,     delta_t = dL/dy_t

(Mitchell et al., arXiv 2110.11309, section 3.1), of which the T pairs are kept and never the product. Tokens at which
either is all zero add nothing and are dropped: those behind the last that predicts, and in the last layer all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlmend.editors.fitting import answer_loss
from vlmend.editors.low_rank import product
from vlmend.edits.ops import WeightOp
from vlmend.errors import EditError
from vlmend.models.prepared import Prepared
from vlmend.models.trace import added
from vlmend.models.vlm import VLM

__all__ = ["Changes", "Gradient", "gradients_of", "in_force", "low_rank_op"]

Changes = Mapping[str, tuple[Tensor, Tensor]]
"""On-disk name of a weight -> the factors of its change, [out, T] and [T, in]."""


@dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient at one layer.

    Attributes:
        inputs_TI: u, what the layer was given at each token.
        deltas_TO: delta, the gradient at what it returned.
    """

    inputs_TI: Tensor
    deltas_TO: Tensor

    @classmethod
    def of(cls, inputs_TI: Tensor, deltas_TO: Tensor) -> Gradient:
        """Without the tokens at which either is all zero."""
        kept_T = inputs_TI.ne(0).any(-1) & deltas_TO.ne(0).any(-1)
        return cls(inputs_TI[kept_T], deltas_TO[kept_T])


def gradients_of(vlm: VLM, prepared: Prepared, linears: Mapping[str, nn.Linear], case: str) -> dict[str, Gradient]:
    """The gradients of one row's loss (`answer_loss`) at layers, those apart that have no part in it.

    Args:
        vlm: the model, with the edits in force; left as it was.
        prepared: the row.
        linears: on-disk name of its weight -> layer.
        case: whose row it is, for errors.

    Raises:
        EditError: no layer has a part in the row's answer, or the gradient is not finite.
    """
    met: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in linears}

    def probe(name: str, linear: nn.Linear) -> Callable[[Tensor], Tensor]:
        def add(x: Tensor) -> Tensor:
            nothing = x.new_zeros((*x.shape[:-1], linear.out_features)).requires_grad_(True)
            met[name].append((x.detach(), nothing))
            return nothing

        return add

    with torch.enable_grad(), added({linear: probe(name, linear) for name, linear in linears.items()}):
        loss = answer_loss(vlm.run(prepared, grad=True, first=vlm.weights.stage(linears)))
    calls = [(name, *call) for name, some in met.items() for call in some]
    # A model may be run besides, to see whether it can be run in parts: such calls have no part in the loss.
    some = [nothing for *_, nothing in calls]
    deltas = torch.autograd.grad(loss, some, allow_unused=True) if loss.requires_grad and some else [None] * len(some)
    found: dict[str, list[Gradient]] = {}
    for (name, inputs, _), delta in zip(calls, deltas, strict=True):
        if delta is not None and bool(delta.any()):
            one = Gradient.of(inputs.flatten(0, -2).clone(), delta.flatten(0, -2))
            found.setdefault(name, []).append(one)
    if not found:
        raise EditError(f"none of the layers to be edited has a part in the answer of case '{case}'")
    gradients = {name: _joined(some) for name, some in found.items()}
    if not all(bool(torch.isfinite(one.deltas_TO).all()) for one in gradients.values()):
        raise EditError(f"the gradient of case '{case}' is not finite")
    return gradients


def _joined(some: Sequence[Gradient]) -> Gradient:
    """Of several calls of one layer."""
    inputs, deltas = [one.inputs_TI for one in some], [one.deltas_TO for one in some]
    return Gradient(torch.cat(inputs), torch.cat(deltas))


def in_force(linears: Mapping[str, nn.Linear], changes: Changes) -> AbstractContextManager[None]:
    """A context in which layers act as with these changes; gradients reach the factors, and no product is made."""
    return added({linears[name]: product(*pair) for name, pair in changes.items()})


def low_rank_op(linears: Mapping[str, nn.Linear], edits: Sequence[Changes]) -> WeightOp:
    """The sum of several edits' changes, as an operation: of each layer the factors side by side.

    Raises:
        EditError: a change is not finite.
    """
    joined: dict[str, tuple[Tensor, Tensor]] = {}
    for name, linear in linears.items():
        if some := [one[name] for one in edits if name in one]:
            left_OT, right_TI = torch.cat([left for left, _ in some], 1), torch.cat([right for _, right in some])
            if not bool(torch.isfinite(left_OT).all() and torch.isfinite(right_TI).all()):
                raise EditError(f"the change of '{name}' is not finite")
            joined[name] = (left_OT.to(linear.weight.dtype), right_TI.to(linear.weight.dtype))
    return WeightOp.low_rank(joined)
