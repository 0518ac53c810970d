"""patching: what of a picture passes through which layer and tokens, by causal tracing.

Meng et al., "Locating and Editing Factual Associations in GPT" (NeurIPS 2022, arXiv 2202.05262), section 2, with the
picture in the place of the subject: the target's value is taken with the picture, with a corrupted picture, and with
the corrupted picture while the states of one group of tokens at one layer are those of the clean run. The score is what
this restores,

    value(corrupted, states restored) - value(corrupted)

to be read against value(clean) - value(corrupted), which is in ``rest``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmend.attribution.base import made
from vlmend.attribution.groups import around, groups_of
from vlmend.attribution.integrated_gradients import greyed
from vlmend.attribution.modules import modules_of
from vlmend.attribution.places import check_picture
from vlmend.attribution.result import Attribution
from vlmend.attribution.running import chunks, entering, values
from vlmend.attribution.target import OWN, Clean, Measure, Strand, Target, asked, strands
from vlmend.data.records import Example
from vlmend.errors import AttributionError
from vlmend.models.parts import LayerSpec
from vlmend.models.pictures import open_picture
from vlmend.models.prepared import Asked
from vlmend.models.trace import altered, first_tensor, rewritten
from vlmend.models.vlm import VLM

__all__ = ["Patching"]


@dataclass(frozen=True)
class Patching:
    """Causal tracing; axes layer and group ("before", "picture", "after", "last": see `groups.groups_of`).

    Attributes:
        layers: where states are restored.
        what: the "state" that enters a layer, or what its "attention" or "mlp" gives.
        window: how many layers' modules are restored at once, around the layer (as a share of all layers if it is no
            integer); for states it is one layer.
        corruption: the picture that stands for none: "grey", or "noise".
        seed: of the noise.
        of: what a token's value is.
    """

    name: ClassVar[str] = "patching"

    layers: LayerSpec = "all"
    what: Literal["state", "attention", "mlp"] = "state"
    window: int | float = 1
    corruption: Literal["grey", "noise"] = "grey"
    seed: int = 0
    of: Measure = "log_prob"

    def attribute(self, vlm: VLM, example: Asked, target: Target = OWN) -> Attribution:
        """See `vlmend.attribution.base.Attributor`.

        Raises:
            AttributionError: there is no picture.
            PartsError: there is no such layer, or it has no module of a known name.
        """
        example = asked(example)
        check_picture(example)
        layers = vlm.parts.layer_indices(self.layers)
        sites = {layer: self._modules(vlm, layer) for layer in layers}
        watched = {name: module for modules in sites.values() for name, module in modules.items()}
        cleans = [strand.read(vlm, watched) for strand in strands(vlm, example, target)]
        corrupted = [one.read(vlm) for one in strands(vlm, self._corrupted(example), target)]
        rest = {"clean": 0.0, "corrupted": 0.0}
        scores_LG = torch.zeros(())
        names: tuple[str, ...] = ()
        for clean, bad in zip(cleans, corrupted, strict=True):
            strand = replace(bad.strand, tokens_N=clean.strand.tokens_N)
            if not torch.equal(strand.row.ids_T, clean.strand.row.ids_T):
                raise AttributionError("the corrupted picture has other visual tokens than the picture")
            before = float(strand.value(bad.logits_NV, self.of))
            groups = groups_of(strand)
            names = tuple(groups)
            found = [self._restored(vlm, strand, clean, sites[layer], list(groups.values())) for layer in layers]
            scores_LG = scores_LG + strand.sign * (torch.stack(found) - before)
            rest["clean"] += strand.sign * float(strand.value(clean.logits_NV, self.of))
            rest["corrupted"] += strand.sign * before
        axes = {"layer": layers, "group": names}
        return made(self, vlm, cleans, target, self.of, scores_LG, dict(axes), rest=rest)

    def _modules(self, vlm: VLM, layer: int) -> dict[str, nn.Module]:
        """The modules whose states are restored for a layer, by name."""
        if self.what == "state":
            return {f"{layer} state": entering(vlm.parts, layer)}
        window = around(layer, self.window, len(vlm.parts.layers))
        return {f"{one} {self.what}": modules_of(vlm.parts, one)[self.what] for one in window}

    def _restored(
        self, vlm: VLM, strand: Strand, clean: Clean, modules: dict[str, nn.Module], groups: list[Tensor]
    ) -> Tensor:
        """The target's value with each group's states as in the clean run: [G]."""
        found: list[Tensor] = []
        for some in chunks(groups, vlm.batch_rows):
            with ExitStack() as stack:
                for name, module in modules.items():
                    call = clean.of(name)
                    kept = call.input if self.what == "state" else first_tensor(call.output)
                    assert kept is not None

                    def change(states: Tensor, kept: Tensor = kept, some: Sequence[Tensor] = some) -> Tensor:
                        # Modules of some families are given all tokens of a batch in one list.
                        changed_BTD = states.clone().view(len(some), strand.length, -1)
                        for row, positions in enumerate(some):
                            changed_BTD[row, positions] = kept.view(strand.length, -1)[positions]
                        return changed_BTD.view(states.shape)

                    hook = altered(module, change) if self.what == "state" else rewritten({module: change})
                    stack.enter_context(hook)
                found.append(values(vlm, strand, strand.prepared.take([0] * len(some)), self.of).cpu())
        return torch.cat(found)

    def _corrupted(self, example: Example) -> Example:
        if self.corruption == "grey":
            return greyed(example)
        random = np.random.default_rng(self.seed)
        noise: list[Image.Image] = []
        for picture in example.pictures:
            width, height = open_picture(picture).size
            noise.append(Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)))
        return replace(example, image=noise[0] if len(noise) == 1 else tuple(noise))
