"""raw-attention: where the position that predicts the answer looks, as it is.

The attention weights of that position on the visual tokens, mean over a layer's heads (Bahdanau et al., ICLR 2015,
arXiv 1409.0473, section 5.2.1, drew the first such maps). It is what other maps are held against: weights say where a
layer looks, not what it takes from there (Jain and Wallace, "Attention is not Explanation", NAACL 2019, arXiv
1902.10186).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.attribution.base import made
from vlmend.attribution.places import layout_of
from vlmend.attribution.result import PLACE, Attribution, Label
from vlmend.attribution.target import OWN, Clean, Target, asked, strands
from vlmend.errors import AttributionError
from vlmend.models.attention import AttentionCall, attention_modules
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Asked
from vlmend.models.vlm import VLM

__all__ = ["RawAttention"]


@dataclass(frozen=True)
class RawAttention:
    """Attention weights; axes layer and place (or "query", where a visual token has no place in the picture).

    Attributes:
        layers: whose attention.
    """

    name: ClassVar[str] = "raw-attention"

    layers: LayerSpec = "all"

    def attribute(self, vlm: VLM, example: Asked, target: Target = OWN) -> Attribution:
        """See `vlmend.attribution.base.Attributor`.

        Raises:
            AttributionError: there is no picture; a difference of answers is asked of the attention, which knows
                positions and not tokens; or an attention does not tell its queries and keys.
            PartsError: there is no such layer, or its attention has no known name.
        """
        if target.against is not None:
            raise AttributionError("attention knows positions and not tokens: it has nothing to say of a difference")
        example = asked(example)
        layout = layout_of(vlm, example)
        layers = vlm.parts.layer_indices(self.layers)
        watched = {str(layer): module for layer, module in attention_modules(vlm.parts, layers).items()}
        (clean,) = [strand.read(vlm, watched) for strand in strands(vlm, example, target)]
        scores_LS = self._weights(vlm, clean, layers)
        tokens = layout.of == "tokens"
        axes: dict[str, tuple[Label, ...]] = {
            "layer": layers,
            PLACE if tokens else "query": tuple(range(scores_LS.shape[-1])),
        }
        places = layout.places if tokens else ()
        return made(self, vlm, [clean], target, "log_prob", scores_LS, axes, places=places)

    @torch.no_grad()
    def _weights(self, vlm: VLM, clean: Clean, layers: Sequence[int]) -> Tensor:
        """Mean over heads, and over the positions that predict the target's tokens: [L, S]."""
        found: list[Tensor] = []
        for layer in layers:
            call = AttentionCall.of(vlm.parts, layer, clean.of(str(layer)))
            heads = call.heads(call.states_1TD)
            if heads is None:
                raise AttributionError(f"the attention of layer {layer} does not tell its queries and keys")
            rows = [
                heads.scores(heads.query_BHTC[:, :, place], place)[0].softmax(-1).mean(0)
                for place in clean.strand.positions
            ]
            found.append(torch.stack(rows).mean(0)[clean.strand.visual].cpu())
        return torch.stack(found)
