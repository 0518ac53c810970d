"""The gradient of a request's loss at linear layers, in factored form: what `mend` and `ke` turn into edits.

Of a layer y = W x, W [out, in], that saw T tokens, the loss's gradient is

    dL/dW  =  sum_t delta_t u_t^T,     u_t = x_t,     delta_t = dL/dy_t

(Mitchell et al., arXiv 2110.11309, section 3.1), of which the T pairs are kept and never the product. Tokens at which
either is all zero add nothing and are dropped: those behind the last that predicts, and in the last layer all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vlmend.editors.fitting import answer_loss
from vlmend.editors.low_rank import product
from vlmend.edits.ops import WeightOp
from vlmend.errors import EditError
from vlmend.models.batching import of_like_length, worth_sharing
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


def gradients_of(
    vlm: VLM, prepared: Prepared, linears: Mapping[str, nn.Linear], cases: Sequence[str]
) -> Iterator[tuple[int, dict[str, Gradient]]]:
    """The gradients of each row's own loss (`answer_loss`) at layers, those apart that have no part in it.

    Rows are run together where the layers are called row by row, which those of the encoder of pictures are not.

    Args:
        vlm: the model, with the edits in force; left as it was.
        prepared: the rows.
        linears: on-disk name of its weight -> layer.
        cases: whose row each is, for errors.

    Yields:
        A row's index and its gradients, in any order, so that not all of them need be kept.

    Raises:
        EditError: no layer has a part in a row's answer, or a gradient is not finite.
    """
    decoder = {module for layer in vlm.parts.layers for module in layer.modules()}
    most = vlm.batch_rows if all(linear in decoder for linear in linears.values()) else 1
    together = True  # not in OPT, whose rows enter its feed-forward part end to end
    share = vlm.shares or bool(worth_sharing(dict(enumerate(prepared.rows))))
    for some in of_like_length(dict(enumerate(prepared.rows)), most):
        found = _together(vlm, prepared.take(some), linears, share) if together else None
        if found is None:
            together = False
            found = [one for index in some for one in _together(vlm, prepared.take([index]), linears, share) or ()]
        for index, one in zip(some, found, strict=True):
            if not one:
                raise EditError(f"none of the layers to be edited has a part in the answer of case '{cases[index]}'")
            if not all(bool(torch.isfinite(gradient.deltas_TO).all()) for gradient in one.values()):
                raise EditError(f"the gradient of case '{cases[index]}' is not finite")
            yield index, one


def _together(
    vlm: VLM, part: Prepared, linears: Mapping[str, nn.Linear], share: bool
) -> list[dict[str, Gradient]] | None:
    """The gradients of rows in one batch; ``None`` if a layer's calls cannot be told apart by row. Whether to
    ``share`` what is run below the layers of what rows begin with."""
    met: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in linears}

    def probe(name: str, linear: nn.Linear) -> Callable[[Tensor], Tensor]:
        def add(x: Tensor) -> Tensor:
            nothing = x.new_zeros((*x.shape[:-1], linear.out_features)).requires_grad_(True)
            met[name].append((x.detach(), nothing))
            return nothing

        return add

    count = len(part)
    with torch.enable_grad(), added({linear: probe(name, linear) for name, linear in linears.items()}):
        loss = answer_loss(vlm.run(part, grad=True, first=vlm.weights.stage(linears), share_first=share)) * count
    calls = [(name, *call) for name, some in met.items() for call in some]
    # A model may be run besides, to see whether it can be run in parts: such calls have no part in the loss.
    some = [nothing for *_, nothing in calls]
    deltas = torch.autograd.grad(loss, some, allow_unused=True) if loss.requires_grad and some else [None] * len(some)
    found: list[dict[str, list[Gradient]]] = [{} for _ in range(count)]
    for (name, inputs, _), delta in zip(calls, deltas, strict=True):
        if delta is None or not bool(delta.any()):
            continue
        if count > 1 and (inputs.dim() < 3 or len(inputs) != count):
            return None
        for row in range(count):
            mine = row if count > 1 else slice(None)
            one = Gradient.of(inputs[mine].flatten(0, -2).clone(), delta[mine].flatten(0, -2))
            if len(one.deltas_TO):
                found[row].setdefault(name, []).append(one)
    return [{name: _joined(some) for name, some in one.items()} for one in found]


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
