"""logit-lens: what the visual tokens would say, layer by layer.

nostalgebraist, "interpreting GPT: the logit lens" (2020); on visual tokens: Neo et al., "Towards Interpreting Visual
Information Processing in Vision-Language Models" (ICLR 2025, arXiv 2410.07149). The states that leave each layer at the
visual tokens go through the final norm and the head; the score is the target's value there, and ``details["words"]``
are the likeliest tokens of each layer and place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.attribution.base import made
from vlmend.attribution.places import layout_of
from vlmend.attribution.result import PLACE, Attribution, Label
from vlmend.attribution.running import entering
from vlmend.attribution.target import OWN, Clean, Measure, Target, asked, strands
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Asked
from vlmend.models.vlm import VLM

__all__ = ["LogitLens"]


@dataclass(frozen=True)
class LogitLens:
    """The target's value at every visual token; axes layer and place (or "query", where a visual token has no place).

    Attributes:
        layers: whose output is looked at.
        top: how many of the likeliest tokens are told.
        of: what a token's value is.
    """

    name: ClassVar[str] = "logit-lens"

    layers: LayerSpec = "all"
    top: int = 3
    of: Measure = "log_prob"

    def attribute(self, vlm: VLM, example: Asked, target: Target = OWN) -> Attribution:
        """See `vlmend.attribution.base.Attributor`.

        Raises:
            AttributionError: there is no picture.
            PartsError: there is no such layer.
        """
        example = asked(example)
        layout = layout_of(vlm, example)
        layers = vlm.parts.layer_indices(self.layers)
        watched = {str(layer): entering(vlm.parts, layer + 1) for layer in layers}
        cleans = [strand.read(vlm, watched) for strand in strands(vlm, example, target)]
        scores = [clean.strand.sign * self._values(vlm, clean, layers) for clean in cleans]
        tokens = layout.of == "tokens"
        count = len(cleans[0].strand.visual)
        axes: dict[str, tuple[Label, ...]] = {"layer": layers, PLACE if tokens else "query": tuple(range(count))}
        return made(
            self,
            vlm,
            cleans,
            target,
            self.of,
            torch.stack(scores).sum(0),
            axes,
            places=layout.places if tokens else (),
            details={"words": [self._words(vlm, cleans[0], layer) for layer in layers]},
        )

    @torch.no_grad()
    def _values(self, vlm: VLM, clean: Clean, layers: tuple[int, ...]) -> Tensor:
        """Mean value of the strand's tokens: [L, S]."""
        tokens_N = clean.strand.tokens_N
        assert tokens_N is not None
        found: list[Tensor] = []
        for layer in layers:
            lens_SV = _lens(vlm, clean, layer)
            values_SV = lens_SV.log_softmax(-1) if self.of == "log_prob" else lens_SV
            found.append(values_SV[:, tokens_N.to(lens_SV.device)].mean(-1).cpu())
        return torch.stack(found)

    @torch.no_grad()
    def _words(self, vlm: VLM, clean: Clean, layer: int) -> list[list[str]]:
        """The likeliest tokens at each visual token."""
        ids = _lens(vlm, clean, layer).topk(self.top, dim=-1).indices.tolist()
        return [[vlm.tokenizer.decode([token]) for token in some] for some in ids]


def _lens(vlm: VLM, clean: Clean, layer: int) -> Tensor:
    """Logits at the visual tokens by the states that leave a layer: [S, vocabulary]."""
    states_BTD = clean.of(str(layer)).input
    assert states_BTD is not None
    return vlm.parts.head(vlm.parts.norm(states_BTD[0, clean.strand.visual])).float()
