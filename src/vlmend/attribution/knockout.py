"""knockout: what the words take from the picture in which layers, by blocking their sight of it.

Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models" (EMNLP 2023, arXiv
2304.14767), section 4, with the visual tokens as the keys: in a window of layers around each layer the queries of one
group of words do not see the visual tokens. The score is what the target loses by it,

    value(clean) - value(blocked).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.attribution.base import made
from vlmend.attribution.groups import around, groups_of
from vlmend.attribution.places import check_picture
from vlmend.attribution.result import Attribution
from vlmend.attribution.running import values
from vlmend.attribution.target import OWN, Clean, Measure, Target, asked, strands
from vlmend.models.attention import blocked
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Asked
from vlmend.models.vlm import VLM

__all__ = ["Knockout"]


@dataclass(frozen=True)
class Knockout:
    """Attention knockout from words to the picture; axes layer and group ("before", "after", "last", and "words": all
    of them; see `groups.groups_of`).

    Attributes:
        layers: in the middle of the windows.
        window: how many layers are blocked at once, as a share of all layers if it is no integer.
        of: what a token's value is.
    """

    name: ClassVar[str] = "knockout"

    layers: LayerSpec = "all"
    window: int | float = 0.2
    of: Measure = "log_prob"

    def attribute(self, vlm: VLM, example: Asked, target: Target = OWN) -> Attribution:
        """See `vlmend.attribution.base.Attributor`.

        Raises:
            AttributionError: there is no picture.
            PartsError: there is no such layer, or its attention takes no mask of its own.
        """
        example = asked(example)
        check_picture(example)
        layers = vlm.parts.layer_indices(self.layers)
        cleans = [strand.read(vlm) for strand in strands(vlm, example, target)]
        lost = [clean.strand.sign * self._lost(vlm, clean, layers) for clean in cleans]
        names = (*(name for name in groups_of(cleans[0].strand) if name != "picture"), "words")
        axes = {"layer": layers, "group": names}
        return made(self, vlm, cleans, target, self.of, torch.stack(lost).sum(0), dict(axes))

    def _lost(self, vlm: VLM, clean: Clean, layers: tuple[int, ...]) -> Tensor:
        """What one answer loses: [L, G]."""
        strand = clean.strand
        groups = [positions for name, positions in groups_of(strand).items() if name != "picture"]
        groups.append(torch.cat(groups))
        blocked_GTT = torch.zeros(len(groups), strand.length, strand.length, dtype=torch.bool)
        for index, positions in enumerate(groups):
            blocked_GTT[index, positions[:, None], strand.visual[None]] = True
        blocked_GTT = blocked_GTT.to(vlm.device)
        copies = strand.prepared.take([0] * len(groups))
        found: list[Tensor] = []
        for layer in layers:
            window = around(layer, self.window, len(vlm.parts.layers))
            with blocked(vlm.parts, window, blocked_GTT):
                found.append(values(vlm, strand, copies, self.of).cpu())
        return strand.value(clean.logits_NV, self.of).cpu() - torch.stack(found)
