"""ultraedit: one step in closed form, from what an answer's gradient is at a few linear layers.

Gu et al., *UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models*, arXiv 2505.14679,
section 3. At the N answer tokens of all requests together, a layer y = W x, W [O, I], was given h_n and has the loss's
gradient v_n (`gradients`). Both are normalised by their means and standard deviations (h^, v^), and the layer is to
move

    t_n  =  -eta ||h^_n||^2 v^_n          at h_n,

which it does in the sense of least squares, with a ridge lambda:

    dW^T  =  (H^T H + lambda I)^-1 H^T T      =  H^T (H H^T + lambda I)^-1 T.

The right-hand form takes the inverse of an N x N matrix and leaves factors of rank N, [O, N] and [N, I]: what an edit
takes grows with its own tokens and with nothing else. (With more tokens than I the left-hand form does, of rank I.)
Nothing is trained and no token of a subject is looked for.

Beyond the paper: layers that a picture goes through before the decoder have no answer tokens. There the step is made at
all tokens that have a gradient.

The statistics of h and v are taken over all tokens of the requests at hand that have a gradient. In the paper they run
over a life of batches of a hundred edits: with ``lifelong`` an edit leaves its own behind (`MomentsOp`), and those made
with it in force measure theirs by both. Without it an edit does not depend on which others were made before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.changing import Layers
from vlmend.editors.gradients import Changes, Gradient, gradients_of, low_rank_op
from vlmend.editors.settings import Rate
from vlmend.edits.edit import Edit
from vlmend.edits.left import Moments, MomentsOp
from vlmend.errors import EditError
from vlmend.models.parts import LayerSpec
from vlmend.models.vlm import VLM

__all__ = ["UltraEdit", "shift"]

_EPSILON = 1e-7


@dataclass(frozen=True)
class UltraEdit:
    """UltraEdit as an editor.

    Attributes:
        layers: which decoder layers ("late", "last", indices or depths).
        modules: which modules in them, by role, "connector", "vision" or paths; every linear layer within is edited.
        eta: size of the step.
        ridge: lambda, against the squared norms of what layers are given.
        lifelong: whether statistics are those of the edits in force too.
    """

    name: ClassVar[str] = "ultraedit"

    layers: LayerSpec = "late"
    modules: tuple[str, ...] = ("mlp.down",)
    eta: Rate = 1e-3
    ridge: Rate = 1.0
    lifelong: bool = False

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Run each request forwards and backwards, and solve once a layer; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target, its answer depends on none of the layers, or a
                setting makes no step.
            PartsError: the model has no such layers or modules.
        """
        check_cases(cases)
        if self.eta <= 0 or self.ridge <= 0:
            raise EditError("eta and ridge of ultraedit must be above 0")
        linears = Layers.found(vlm, self.layers, self.modules).linears
        prepared = vlm.prepare([case.request for case in cases])
        before = {module for part in vlm.parts.outside.values() for module in part.modules()}
        met: dict[str, _Met] = {}
        for index, gradients in gradients_of(vlm, prepared, linears, [case.id for case in cases]):
            answer = len(prepared.rows[index].target_N)
            for name, gradient in gradients.items():
                count = len(gradient.inputs_TI) if linears[name] in before else answer
                met.setdefault(name, _Met()).add(index, gradient, count)
        own = MomentsOp({name: one.moments for name, one in met.items()})
        known = _of_a_life(vlm, own) if self.lifelong else own
        changes: Changes = {name: self._change(one, known.moments[name]) for name, one in met.items()}
        ops = [low_rank_op(linears, [changes]), *([own] if self.lifelong else [])]
        return edit_of(self, vlm, cases, ops)

    @torch.no_grad()
    def _change(self, met: _Met, moments: tuple[Moments, Moments]) -> tuple[Tensor, Tensor]:
        """The factors of one layer's change, [O, N] and [N, I]."""
        h_NI, v_NO = met.steps()
        h_hat_NI, v_hat_NO = (
            one.to(x.device).normalised(x, _EPSILON) for one, x in zip(moments, (h_NI, v_NO), strict=True)
        )
        return shift(h_NI, h_hat_NI, v_hat_NO, self.eta, self.ridge)


class _Met:
    """What is kept of requests' gradients at one layer: where the step is made all, elsewhere their moments."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[Tensor, Tensor]] = {}
        self._moments: tuple[Moments, Moments] | None = None

    def add(self, index: int, gradient: Gradient, count: int) -> None:
        """One more request; the step is made at the last ``count`` tokens that have a gradient."""
        every = (gradient.inputs_TI.float(), gradient.deltas_TO.float())
        self._steps[index] = (every[0][-count:], every[1][-count:])
        own = (Moments.of(every[0]), Moments.of(every[1]))
        before = self._moments
        self._moments = own if before is None else (before[0].joined(own[0]), before[1].joined(own[1]))

    @property
    def moments(self) -> tuple[Moments, Moments]:
        """Of inputs and of gradients, over all tokens."""
        assert self._moments is not None
        return self._moments

    def steps(self) -> tuple[Tensor, Tensor]:
        """Inputs [N, I] and gradients [N, O] where the step is made, request by request."""
        some = [self._steps[index] for index in sorted(self._steps)]
        return torch.cat([h for h, _ in some]), torch.cat([v for _, v in some])


def _of_a_life(vlm: VLM, own: MomentsOp) -> MomentsOp:
    """An edit's moments with those of the edits in force at the same layers."""
    for op in vlm.ops_in_force:
        if isinstance(op, MomentsOp):
            own = own.joined(op) or own
    return own


def shift(h_NI: Tensor, h_hat_NI: Tensor, v_hat_NO: Tensor, eta: float, ridge: float) -> tuple[Tensor, Tensor]:
    """The change of a weight [O, I] as factors [O, R] and [R, I], R the lesser of N and I: the module's equation."""
    wanted_NO = -eta * h_hat_NI.square().sum(-1, keepdim=True) * v_hat_NO
    eye_II = torch.eye(h_NI.shape[1], dtype=h_NI.dtype, device=h_NI.device)
    if len(h_NI) > len(eye_II):
        return torch.linalg.solve(h_NI.T @ h_NI + ridge * eye_II, h_NI.T @ wanted_NO).T, eye_II
    gram_NN = h_NI @ h_NI.T + ridge * torch.eye(len(h_NI), dtype=h_NI.dtype, device=h_NI.device)
    return torch.linalg.solve(gram_NN, wanted_NO).T, h_NI
