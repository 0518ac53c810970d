"""FT: fine-tune a few modules of a few layers on the corrected answers.

The plainest editor, and the baseline of MMEdit (arXiv 2310.08475, section 4.1: "FT-L", the last decoder layer, and
"FT-V", the vision-language connector) and of VLKEB (arXiv 2403.07350, appendix: AdamW, 15 steps, learning rate 1e-4 to
2e-4, both matrices of the last layer's MLP). With requests (i, x, y), y of tokens y_1..y_N closed by the end token
y_{N+1}, it minimises over the chosen weights W

    L(W) = mean over requests of  1/(N+1) sum_n -log p_W(y_n | i, x, y_<n)

by AdamW without weight decay. ``norm_limit`` bounds every entry of the change after each step, |W - W_0|_inf <= limit
(FT+L: Zhu et al. 2020, arXiv 2012.00363, eq. 4). The edit holds the dense deltas W - W_0, each of its tensor's shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.choosing import layers_for_weights
from vlmend.editors.fitting import answer_loss, descend
from vlmend.editors.settings import Amount, Count, Rate
from vlmend.edits.edit import Edit
from vlmend.edits.ops import WeightOp
from vlmend.models.parts import LayerSpec
from vlmend.models.vlm import VLM

__all__ = ["FT"]


@dataclass(frozen=True)
class FT:
    """Fine-tuning as an editor.

    Attributes:
        layers: which decoder layers ("late", "last", indices or depths; "auto": chosen by attribution).
        modules: which modules in them, by role ("mlp.down", "attn.out", ...), "connector", "vision" or paths.
        steps: AdamW steps.
        lr: learning rate.
        norm_limit: largest absolute change of any weight; ``None`` for no limit.
        stop_loss: stop when the loss is below it; 0 to take all steps.
    """

    name: ClassVar[str] = "ft"

    layers: LayerSpec = "late"
    modules: tuple[str, ...] = ("mlp.down",)
    steps: Count = 15
    lr: Rate = 2e-4
    norm_limit: Amount | None = None
    stop_loss: Amount = 0.0

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Fit the chosen weights to the cases' requests; the model is left bit for bit as it was.

        Raises:
            EditError: there are no cases, a request has no target, or the fit diverges.
            PartsError: the model has no such layers or modules.
            AttributionError: layers cannot be chosen on this model.
        """
        check_cases(cases)
        layers, chosen = layers_for_weights(vlm, self.layers, cases, FT.layers)
        prepared = vlm.prepare([case.request for case in cases])
        names = vlm.weights.named(vlm.parts.modules(layers, self.modules), matrices_only=True)
        first = vlm.weights.stage(names)
        with vlm.weights.borrowed(names) as parameters:
            base = {name: parameter.detach().clone() for name, parameter in parameters.items()}
            descend(
                list(parameters.values()),
                lambda: answer_loss(vlm.run(prepared, grad=True, first=first)),
                steps=self.steps,
                lr=self.lr,
                stop_loss=self.stop_loss,
                after_step=lambda: self._limit(parameters, base),
            )
            deltas = {name: parameter.detach() - base[name] for name, parameter in parameters.items()}
        return edit_of(self, vlm, cases, [WeightOp.deltas(deltas)], chosen)

    def _limit(self, parameters: dict[str, nn.Parameter], base: dict[str, Tensor]) -> None:
        if self.norm_limit is None:
            return
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(base[name] + (parameter - base[name]).clamp(-self.norm_limit, self.norm_limit))
