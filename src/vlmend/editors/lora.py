"""LoRA: fit low-rank changes of linear layers to the corrected answers.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685, section 4.1, as an editor: for a
linear layer W [out, in] a change alpha/r B A is learnt, A [r, in] drawn at random and B [out, r] zero at the start, so
that the first step begins at the unedited model. The loss is that of `ft`: the mean negative log-likelihood of the
targets, end tokens included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.choosing import layers_for_weights
from vlmend.editors.fitting import answer_loss, descend
from vlmend.editors.low_rank import factors_for, product
from vlmend.editors.settings import Amount, Count, Number, Rate, Size
from vlmend.edits.edit import Edit
from vlmend.edits.ops import WeightOp
from vlmend.models.parts import LayerSpec
from vlmend.models.trace import added
from vlmend.models.vlm import VLM

__all__ = ["LoRA"]


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation as an editor.

    Attributes:
        layers: which decoder layers ("late", "last", indices or depths; "auto": chosen by attribution).
        modules: which modules in them, by role, "connector", "vision" or paths; every linear layer within is adapted.
        rank: r.
        alpha: the change is scaled by alpha / r.
        steps: AdamW steps.
        lr: learning rate.
        stop_loss: stop when the loss is below it; 0 to take all steps.
        seed: of the draw of A.
    """

    name: ClassVar[str] = "lora"

    layers: LayerSpec = "late"
    modules: tuple[str, ...] = ("attn.q", "attn.v", "mlp.down")
    rank: Size = 4
    alpha: Number = 8.0
    steps: Count = 30
    lr: Rate = 5e-3
    stop_loss: Amount = 0.02
    seed: int = 0

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Fit the factors to the cases' requests; the model is left bit for bit as it was.

        Raises:
            EditError: there are no cases, a request has no target, or the fit diverges.
            PartsError: the model has no such layers or modules.
            AttributionError: layers cannot be chosen on this model.
        """
        check_cases(cases)
        layers, chosen = layers_for_weights(vlm, self.layers, cases, LoRA.layers)
        prepared = vlm.prepare([case.request for case in cases])
        linears = vlm.weights.linears(vlm.parts.modules(layers, self.modules))
        first = vlm.weights.stage(linears)
        draw = torch.Generator().manual_seed(self.seed)
        factors = {name: factors_for(linear, self.rank, self.alpha, draw) for name, linear in linears.items()}
        with added({linears[name]: product(left, right) for name, (left, right) in factors.items()}):
            descend(
                [factor for pair in factors.values() for factor in pair],
                lambda: answer_loss(vlm.run(prepared, grad=True, first=first)),
                steps=self.steps,
                lr=self.lr,
                stop_loss=self.stop_loss,
            )
        low_rank = {
            name: (left.detach().to(linears[name].weight.dtype), right.detach().to(linears[name].weight.dtype))
            for name, (left, right) in factors.items()
        }
        return edit_of(self, vlm, cases, [WeightOp.low_rank(low_rank)], chosen)
