"""ultraedit: one step in closed form, from what an answer's gradient is at a few linear layers.

Gu et al., *UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Language Models*, arXiv 2505.14679,
section 3. At the N answer tokens of all requests together, a layer y = W x, W [O, I], was given h_n and has the loss's
gradient v_n (`gradients`). Both are normalised by their means and standard deviations (h^, v^), and the layer is to
move

    t_n  =  -eta ||h^_n||^2 v^_n          at h_n,

which it does in the sense of least squares, with a ridge lambda:

    dW^T  =  (H^T H + lambda I)^-1 H^T T      =  H^T (H H^T + lambda I)^-1 T.

The right-hand form takes the inverse of an N x N matrix and leaves factors of rank N, [O, N] and [N, I]: what an edit
takes grows with its own tokens and with nothing else. Nothing is trained and no token of a subject is looked for.

Unlike in the paper, where the statistics of h and v run over a life of batches of a hundred edits, they are taken over
all tokens of the requests at hand that have a gradient: one request has too few answer tokens for any, and an edit does
not depend on which others were made before it.
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
from vlmend.edits.edit import Edit
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
        modules: which modules in them, by role, or "connector", "vision"; every linear layer within is edited.
        eta: size of the step.
        ridge: lambda, against the squared norms of what layers are given.
    """

    name: ClassVar[str] = "ultraedit"

    layers: LayerSpec = "late"
    modules: tuple[str, ...] = ("mlp.down",)
    eta: float = 1e-3
    ridge: float = 1.0

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
        met: dict[str, list[tuple[Gradient, int]]] = {}
        for case in cases:
            prepared = vlm.prepare([case.request])
            count = len(prepared.rows[0].target_N)
            for name, gradient in gradients_of(vlm, prepared, linears, case.id).items():
                met.setdefault(name, []).append((gradient, count))
        changes: Changes = {name: self._change(some) for name, some in met.items()}
        return edit_of(self, vlm, cases, [low_rank_op(linears, [changes])])

    def _change(self, some: Sequence[tuple[Gradient, int]]) -> tuple[Tensor, Tensor]:
        """The factors of one layer's change, [O, N] and [N, I]; of each request its gradient and how many tokens its
        answer has, which are the last with a gradient."""
        with torch.no_grad():
            hats: list[Tensor] = []
            for side in ("inputs_TI", "deltas_TO"):
                every: list[Tensor] = [getattr(gradient, side) for gradient, _ in some]
                mean, deviation = torch.cat(every).mean(0), torch.cat(every).std(0, correction=0)
                answers = torch.cat([rows[-count:] for rows, (_, count) in zip(every, some, strict=True)])
                hats.append((answers - mean) / (deviation + _EPSILON))
            h_NI = torch.cat([gradient.inputs_TI[-count:] for gradient, count in some])
            return shift(h_NI, hats[0], hats[1], self.eta, self.ridge)


def shift(h_NI: Tensor, h_hat_NI: Tensor, v_hat_NO: Tensor, eta: float, ridge: float) -> tuple[Tensor, Tensor]:
    """The change of a weight [O, I] as factors [O, N] and [N, I]: the module's equation, right-hand form."""
    wanted_NO = -eta * h_hat_NI.square().sum(-1, keepdim=True) * v_hat_NO
    gram_NN = h_NI @ h_NI.T + ridge * torch.eye(len(h_NI), dtype=h_NI.dtype, device=h_NI.device)
    return torch.linalg.solve(gram_NN, wanted_NO).T, h_NI
