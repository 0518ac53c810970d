"""integrated-gradients: what each visual token (or each token) adds to the target on the way from a baseline.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (ICML 2017, arXiv 1703.01365), equation 1, for the
states x [S, D] that enter a decoder layer, with a baseline x' and the target's value f as a function of them:

    score_s = sum_d (x_sd - x'_sd) * integral from 0 to 1 of  df(x' + a (x - x')) / dx_sd  da

The integral is taken by Gauss-Legendre quadrature. Scores add up to f(x) - f(x') (completeness); how far they do is
reported. As a baseline the states of a grey picture of the same size are the default: they are such as the model knows.
Zeros are not, and a norm that divides by length makes the path to them steep at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmend.attribution.base import made
from vlmend.attribution.places import layout_of
from vlmend.attribution.result import PLACE, Attribution, Completeness, Label
from vlmend.attribution.running import apart, chunks, encoding_graph, entering, patches, patches_altered, values
from vlmend.attribution.target import OWN, Clean, Measure, Target, asked, strands
from vlmend.data.records import Example
from vlmend.errors import AttributionError
from vlmend.models.parts import LayerSpec
from vlmend.models.pictures import open_picture
from vlmend.models.prepared import Asked
from vlmend.models.trace import altered, first_tensor
from vlmend.models.vlm import VLM

__all__ = ["IntegratedGradients", "greyed"]

_GREY = (128, 128, 128)
_COARSE = 0.05
_FLOOR = 1e-4  # nats
_Run = Callable[[Tensor, bool], Tensor]  # values of a batch of states, with a graph or without


def greyed(example: Example) -> Example:
    """The example with grey pictures of the same sizes."""
    grey = tuple(Image.new("RGB", open_picture(picture).size, _GREY) for picture in example.pictures)
    return replace(example, image=grey[0] if len(grey) == 1 else grey)


@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients over states; axes layer and place, or layer and token for all tokens.

    Where visual tokens have no place in the picture (a Q-Former's queries) they are taken over the vision encoder's
    patches: then the axis is place alone.

    Attributes:
        layers: over the states that enter these decoder layers; 0: over the embeddings.
        steps: points on the path.
        baseline: where it begins: "grey" for the states of a grey picture, and for words the mean of the words' states;
            or "zero".
        over: "visual" tokens, or "all" tokens of the prompt.
        of: what a token's value is.
    """

    name: ClassVar[str] = "integrated-gradients"

    layers: LayerSpec = 0
    steps: int = 24
    baseline: Literal["grey", "zero"] = "grey"
    over: Literal["visual", "all"] = "visual"
    of: Measure = "log_prob"

    def attribute(self, vlm: VLM, example: Asked, target: Target = OWN) -> Attribution:
        """See `vlmend.attribution.base.Attributor`.

        Raises:
            AttributionError: there is no picture, or no step.
            PartsError: there is no such layer.
        """
        if self.steps < 1:
            raise AttributionError(f"the path needs at least one step, not {self.steps}")
        example = asked(example)
        layout = layout_of(vlm, example)
        on_patches = layout.of == "patches" and self.over == "visual"
        layers = (0,) if on_patches else vlm.parts.layer_indices(self.layers)
        watched = {str(layer): entering(vlm.parts, layer) for layer in layers} | {"vision": vlm.parts.vision}
        cleans = [strand.read(vlm, watched) for strand in strands(vlm, example, target)]
        greys = [strand.read(vlm, watched) for strand in strands(vlm, greyed(example), target)]
        scores: list[Tensor] = []
        whole: list[Completeness] = []
        for layer in layers:
            taken = [
                self._on_patches(vlm, clean, grey, len(layout.places))
                if on_patches
                else self._on_states(vlm, clean, grey, layer)
                for clean, grey in zip(cleans, greys, strict=True)
            ]
            signs = [clean.strand.sign for clean in cleans]
            scores.append(torch.stack([s * one for s, (one, _) in zip(signs, taken, strict=True)]).sum(0))
            expected = sum(s * change for s, (_, change) in zip(signs, taken, strict=True))
            whole.append(Completeness(expected, float(scores[-1].sum())))
        row = cleans[0].strand.row
        last = (
            {PLACE: tuple(range(len(layout.places)))}
            if self.over == "visual"
            else {"token": tuple(range(len(row.ids_T)))}
        )
        axes: dict[str, tuple[Label, ...]] = {"layer": layers, **last}
        worst = max(whole, key=lambda one: abs(one.found - one.expected))  # a change near 0 has no share to miss
        notes: list[str] = []
        if on_patches:
            axes = dict(last)
            notes.append(
                "visual tokens have no place in the picture: these are gradients of the vision encoder's patches"
            )
        if abs(worst.found - worst.expected) > _COARSE * max(abs(worst.expected), 1.0):
            sums = f"{worst.found:.3g} instead of {worst.expected:.3g}"
            notes.append(f"scores add up to {sums}: take more steps, or another baseline")
        return made(
            self,
            vlm,
            cleans,
            target,
            self.of,
            scores[0] if on_patches else torch.stack(scores),
            axes,
            places=layout.places if self.over == "visual" else (),
            completeness=worst,
            floor=max(_FLOOR, abs(worst.found - worst.expected)),  # what is not accounted for may be at any place
            notes=tuple(notes),
            details={
                "completeness": [[one.expected, one.found] for one in whole],
                "pieces": [vlm.tokenizer.decode([token]) for token in row.ids_T.tolist()] if self.over == "all" else [],
                "visual": row.visual_T.tolist() if self.over == "all" else [],
            },
        )

    def _on_states(self, vlm: VLM, clean: Clean, grey: Clean, layer: int) -> tuple[Tensor, float]:
        """Scores of the states entering a layer, and what they should add up to."""
        strand = clean.strand
        visual_S = strand.visual
        places = visual_S if self.over == "visual" else torch.arange(len(strand.row.ids_T))
        given, base = (one.of(str(layer)).input for one in (clean, grey))
        assert given is not None and base is not None
        states_TD, base_TD = given[0].detach(), base[0].detach().clone()
        words = ~strand.row.visual_T.to(states_TD.device)
        base_TD[: len(words)][words] = states_TD[: len(words)][words].mean(0)

        def run(states_BSD: Tensor, grad: bool) -> Tensor:
            prepared = strand.prepared.take([0] * len(states_BSD))
            if layer:  # what is below is run once, as it is
                vlm.run(prepared, first=2 * layer)

            def change(whole_BTD: Tensor) -> Tensor:
                changed = whole_BTD.clone()
                changed[:, places] = states_BSD.to(changed)
                return changed

            with altered(entering(vlm.parts, layer), change):
                return values(vlm, strand, prepared, self.of, first=2 * layer, grad=grad)

        return self._integrated(vlm, states_TD[places], base_TD[places], run)

    def _on_patches(self, vlm: VLM, clean: Clean, grey: Clean, count: int) -> tuple[Tensor, float]:
        """Scores of the encoder's patches, and what they should add up to."""
        strand = clean.strand
        given, base = (first_tensor(one.of("vision").output) for one in (clean, grey))
        assert given is not None and base is not None
        states_PD, base_PD = (patches(one.detach(), count)[0] for one in (given, base))

        def run(states_BPD: Tensor, grad: bool) -> Tensor:
            with ExitStack() as stack:
                if grad:
                    stack.enter_context(encoding_graph(vlm))
                stack.enter_context(patches_altered(vlm, count, lambda row, _: states_BPD[row]))
                return values(vlm, strand, apart(strand.prepared, len(states_BPD)), self.of, grad=grad)

        return self._integrated(vlm, states_PD, base_PD, run)

    def _integrated(self, vlm: VLM, states_SD: Tensor, base_SD: Tensor, run: _Run) -> tuple[Tensor, float]:
        """The integral [S], and f(x) - f(x')."""
        if self.baseline == "zero":
            base_SD = torch.zeros_like(states_SD)
        moved_SD = (states_SD - base_SD).float()
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)
        points = list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))
        slope_SD = torch.zeros_like(moved_SD)
        for some in chunks(points, vlm.batch_rows):
            path = [base_SD + point * (states_SD - base_SD) for point, _ in some]
            states_BSD = torch.stack(path).requires_grad_(True)
            of_points_B = run(states_BSD, True)
            weighted = sum(value * weight for value, (_, weight) in zip(of_points_B, some, strict=True))
            assert isinstance(weighted, Tensor)
            slope_SD += torch.autograd.grad(weighted, states_BSD)[0].float().sum(0)
        with torch.no_grad():
            before, after = run(torch.stack([base_SD, states_SD]), False).tolist()
        return (moved_SD * slope_SD).sum(-1).cpu(), after - before
