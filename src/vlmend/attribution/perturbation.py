"""perturbation: VisEdit's noise on the visual representations, window by window, as a heat map.

Chen et al., "Attribution Analysis Meets Model Editing: Advancing Knowledge Correction in Vision Language Models with
VisEdit" (AAAI 2025, arXiv 2408.09916), section 3: noise is added to a window of visual tokens where they enter a
layer's attention, and the score of the window's middle is how far the attention's output turns at the position that
predicts the answer (formulae in `noise`). The published code has a noise of its own for every window and token. Here a
token's noise is shared by all windows that hold it: the same estimator, at a small part of the cost. That the short
way gives what the attention itself gives is checked at the window with the highest score, and if it does not, every
window is computed by itself, which the result says.

Two things go beyond: ``measure="target"`` scores a window by what its noise takes from the target's value, the rest of
the model included; and where a visual token has no place in the picture (a Q-Former's queries), the noise is put on the
vision encoder's patches, which are then the places.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.attribution.base import made
from vlmend.attribution.noise import shared_heat, window_heat
from vlmend.attribution.places import layout_of, windows
from vlmend.attribution.result import PLACE, Attribution, Label
from vlmend.attribution.running import apart, chunks, patches, patches_altered, values
from vlmend.attribution.target import OWN, Clean, Target, asked, strands
from vlmend.errors import AttributionError
from vlmend.models.attention import AttentionCall, attention_modules
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Asked
from vlmend.models.trace import altered, capture, first_tensor
from vlmend.models.vlm import VLM

__all__ = ["Perturbation"]

_TOLERANCE = 1e-4
_FLOORS = {"attention": 2e-6, "target": 1e-4}  # of 1 - cos in float32, and of a log probability in nats


@dataclass(frozen=True)
class Perturbation:
    """Noise on windows of the picture; axes layer and place (place alone where the noise is on the encoder's patches
    and the target is measured).

    Attributes:
        layers: whose attention the noise enters (VisEdit's figures are of layers 21 to 26 of 32; which layers read the
            picture differs between models: `decomposition` and `patching` say which); where it is on the encoder's
            patches, whose attention is measured.
        radius: of a window: in cells if it is an integer, else as a share of the picture's sides (`places.windows`).
        draws: of the noise.
        noise: its standard deviation.
        seed: of the draws.
        measure: "attention", 1 - cos of the attention's output; or "target", the loss of the target's value in nats.
        path: "auto", or "exact" to compute every window by itself.
    """

    name: ClassVar[str] = "perturbation"

    layers: LayerSpec = 0.5
    radius: int | float = 0.125
    draws: int = 10
    noise: float = 0.7
    seed: int = 0
    measure: Literal["attention", "target"] = "attention"
    path: Literal["auto", "exact"] = "auto"

    def attribute(self, vlm: VLM, example: Asked, target: Target = OWN) -> Attribution:
        """See `vlmend.attribution.base.Attributor`.

        Raises:
            AttributionError: there is no picture; or a difference of answers is asked of the attention, which knows
                positions and not tokens.
            PartsError: there is no such layer, or its attention has no known name.
        """
        if self.draws < 1 or self.noise <= 0:
            raise AttributionError(f"noise needs draws and a size, not {self.draws} draws of size {self.noise}")
        if target.against is not None and self.measure == "attention":
            raise AttributionError("a difference of answers is measured at the target: set measure='target'")
        example = asked(example)
        layout = layout_of(vlm, example)
        layers = vlm.parts.layer_indices(self.layers)
        watched = {str(layer): module for layer, module in attention_modules(vlm.parts, layers).items()}
        if layout.of == "patches":
            watched["vision"] = vlm.parts.vision
        cleans = [strand.read(vlm, watched) for strand in strands(vlm, example, target)]
        near_PP = windows(layout.places, cleans[0].strand.row.sizes, self.radius)
        axes: dict[str, tuple[Label, ...]] = {"layer": layers, PLACE: tuple(range(len(layout.places)))}
        notes: list[str] = []
        if layout.of == "patches":
            notes.append("visual tokens have no place in the picture: the noise is on the vision encoder's patches")
            scores_LP = self._on_patches(vlm, cleans, layers, near_PP)
            if self.measure == "target":
                del axes["layer"]
                scores_LP = scores_LP[0]
        elif self.measure == "target":
            scores_LP = self._on_target(vlm, cleans, layers, near_PP)
        else:
            scores_LP, notes = self._on_attention(vlm, cleans[0], layers, near_PP)
        return made(
            self,
            vlm,
            cleans,
            target,
            "log_prob",
            scores_LP,
            axes,
            places=layout.places,
            floor=_FLOORS[self.measure],
            notes=tuple(notes),
        )

    def _draws(self, count: int, states: Tensor) -> Tensor:
        """Noise for each draw and place: [draw, P, D]."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.draws, count, states.shape[-1], generator=generator) * self.noise

    def _on_attention(self, vlm: VLM, clean: Clean, layers: Sequence[int], near_PP: Tensor) -> tuple[Tensor, list[str]]:
        """Each layer's heat [L, P], and notes on the layers for which there is no short way."""
        strand = clean.strand
        heats: list[Tensor] = []
        notes: list[str] = []
        for layer in layers:
            call = AttentionCall.of(vlm.parts, layer, clean.of(str(layer)))
            noise_BSD = self._draws(len(strand.visual), call.states_1TD)
            fast, why = (None, "") if self.path == "exact" else _short(call, clean, near_PP, noise_BSD)
            if why:
                notes.append(f"layer {layer}: every window was computed by itself, because {why}")
            if fast is None:
                members = [near.nonzero().flatten() for near in near_PP]
                queries = strand.positions
                fast = window_heat(call, strand.visual, members, queries, lambda i, m=members, n=noise_BSD: n[:, m[i]])
            heats.append(fast.mean(-1).cpu())
        return torch.stack(heats), notes

    def _on_target(self, vlm: VLM, cleans: Sequence[Clean], layers: Sequence[int], near_PP: Tensor) -> Tensor:
        """What noise entering each layer's attention takes from the target's value: [L, P]."""
        modules = attention_modules(vlm.parts, tuple(layers))
        lost_LP = torch.zeros(len(layers), len(near_PP))
        for clean, (number, layer) in itertools.product(cleans, enumerate(layers)):
            strand = clean.strand
            states = clean.of(str(layer)).input
            assert states is not None
            noise_BSD = self._draws(len(strand.visual), states)

            def noisy(rows: Sequence[_Variant], noise_BSD: Tensor = noise_BSD, visual_S: Tensor = strand.visual) -> Any:
                def change(states_BTD: Tensor) -> Tensor:
                    changed = states_BTD.clone()
                    for row, (place, draw) in enumerate(rows):
                        changed[row, visual_S[near_PP[place]]] += noise_BSD[draw, near_PP[place]].to(changed)
                    return changed

                return change

            whole = float(strand.value(clean.logits_NV, "log_prob"))
            for some in chunks(self._variants(len(near_PP)), vlm.batch_rows):
                with altered(modules[layer], noisy(some)):
                    found = values(vlm, strand, strand.prepared.take([0] * len(some)), "log_prob", first=2 * layer)
                for (place, _), value in zip(some, found.tolist(), strict=True):
                    lost_LP[number, place] += strand.sign * (whole - value) / self.draws
        return lost_LP

    def _on_patches(self, vlm: VLM, cleans: Sequence[Clean], layers: Sequence[int], near_PP: Tensor) -> Tensor:
        """What noise on the encoder's patches does to each layer's attention [L, P], or to the target [1, P]."""
        modules = {str(layer): module for layer, module in attention_modules(vlm.parts, tuple(layers)).items()}
        rows = len(layers) if self.measure == "attention" else 1
        scores_LP = torch.zeros(rows, len(near_PP))
        for clean in cleans:
            strand = clean.strand
            encoded_1TD = first_tensor(clean.of("vision").output)
            assert encoded_1TD is not None
            noise_BPD = self._draws(len(near_PP), patches(encoded_1TD, len(near_PP)))
            whole = float(strand.value(clean.logits_NV, "log_prob"))
            for some in chunks(self._variants(len(near_PP)), vlm.batch_rows):

                def change(
                    row: int, patches_PD: Tensor, some: Sequence[_Variant] = some, noise_BPD: Tensor = noise_BPD
                ) -> Tensor:
                    place, draw = some[row]
                    return patches_PD + (noise_BPD[draw] * near_PP[place, :, None]).to(patches_PD)

                with patches_altered(vlm, len(near_PP), change), capture(modules) as calls:
                    found = values(vlm, strand, apart(strand.prepared, len(some)), "log_prob")
                if self.measure == "attention":
                    found_LB = torch.stack([_turned(clean.of(call.name), call, strand.positions) for call in calls])
                else:
                    found_LB = strand.sign * (whole - found[None].cpu())
                for index, (place, _) in enumerate(some):
                    scores_LP[:, place] += found_LB[:, index] / self.draws
        return scores_LP

    def _variants(self, count: int) -> list[_Variant]:
        return list(itertools.product(range(count), range(self.draws)))


_Variant = tuple[int, int]  # the place in the middle of a window, and a draw


def _short(call: AttentionCall, clean: Clean, near_PP: Tensor, noise_BSD: Tensor) -> tuple[Tensor | None, str]:
    """Heat by shared noise [P, draw]; ``None`` where that is not what the attention itself gives, and why."""
    visual_S, queries = clean.strand.visual, clean.strand.positions
    if set(queries) & set(visual_S.tolist()):
        return None, "the answer is predicted at a visual token"
    found = shared_heat(call, visual_S, near_PP, queries, noise_BSD)
    if found is None:
        return None, "its queries, keys and values could not be had"
    highest = int(found[:, 0].nan_to_num(-1).argmax())
    window = near_PP[highest].nonzero().flatten()
    exact = float(window_heat(call, visual_S, [window], queries, lambda _: noise_BSD[:1, window]))
    tolerance = max(_TOLERANCE, 4 * torch.finfo(call.output_1TD.dtype).eps)
    error = abs(float(found[highest, 0]) - exact)
    if not error <= tolerance * max(1.0, exact):
        return None, f"sharing noise gave {float(found[highest, 0]):.4g} at place {highest} instead of {exact:.4g}"
    return found, ""


def _turned(clean: Any, call: Any, queries: Sequence[int]) -> Tensor:
    """1 - cos between an attention's outputs in a batch and in a clean run, mean over queries: [B]."""
    dirty_BTD, clean_1TD = first_tensor(call.output), first_tensor(clean.output)
    assert dirty_BTD is not None and clean_1TD is not None
    pairs = (one[:, list(queries)].float() for one in (dirty_BTD, clean_1TD))
    return 1 - functional.cosine_similarity(*pairs, dim=-1).mean(-1).cpu()
