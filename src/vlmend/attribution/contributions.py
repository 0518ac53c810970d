"""contributions: VisEdit's module contribution, read through the logit lens.

Chen et al., "Attribution Analysis Meets Model Editing: Advancing Knowledge Correction in Vision Language Models with
VisEdit" (AAAI 2025, arXiv 2408.09916), section 3. For the output h [D] of the attention or MLP of layer l at the
position that predicts a token k,

    v = head(norm(h))_k,   p = softmax(head(norm(h)))_k,   M = max over layers and both modules of |v|
    C(l, m) = sign(v) sqrt(|v| / M) sqrt(p)

It is a heuristic: the norm is applied to each output by itself, which drops how large it is, so that contributions do
not add up to the logit. `decomposition` is the exact counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.attribution.base import made
from vlmend.attribution.modules import MODULES, modules_of
from vlmend.attribution.result import Attribution
from vlmend.attribution.target import OWN, Clean, Target, asked, strands
from vlmend.models.parts import Parts
from vlmend.models.prepared import Asked
from vlmend.models.trace import first_tensor
from vlmend.models.vlm import VLM

__all__ = ["Contributions"]


@dataclass(frozen=True)
class Contributions:
    """VisEdit's contribution of every layer's attention and MLP; axes layer and module.

    For a target of several tokens it is the mean over them, for a difference the one's less the other's.
    """

    name: ClassVar[str] = "contributions"

    def attribute(self, vlm: VLM, example: Asked, target: Target = OWN) -> Attribution:
        """See `vlmend.attribution.base.Attributor`.

        Raises:
            PartsError: a layer has no attention or MLP of a known name.
        """
        layers = range(len(vlm.parts.layers))
        watched = {f"{i} {name}": module for i in layers for name, module in modules_of(vlm.parts, i).items()}
        cleans = [strand.read(vlm, watched) for strand in strands(vlm, asked(example), target)]
        scores_LM = sum((clean.strand.sign * _contributions(vlm.parts, clean) for clean in cleans), torch.tensor(0.0))
        return made(self, vlm, cleans, target, "logit", scores_LM, {"layer": tuple(layers), "module": MODULES})


@torch.no_grad()
def _contributions(parts: Parts, clean: Clean) -> Tensor:
    """Mean contribution to the strand's tokens: [L, 2]."""
    strand = clean.strand
    assert strand.tokens_N is not None
    outputs: list[Tensor] = []
    for layer in range(len(parts.layers)):
        for name in MODULES:
            output = first_tensor(clean.of(f"{layer} {name}").output)
            assert output is not None
            outputs.append(output.reshape(1, strand.length, -1)[0, list(strand.positions)])
    lens_LMNV = parts.head(parts.norm(torch.stack(outputs))).float().unflatten(0, (-1, len(MODULES)))
    tokens_N = strand.tokens_N.to(lens_LMNV.device)
    v_LMN = lens_LMNV[..., torch.arange(len(tokens_N)), tokens_N]
    p_LMN = lens_LMNV.softmax(-1)[..., torch.arange(len(tokens_N)), tokens_N]
    largest_N = v_LMN.abs().amax((0, 1)).clamp(min=1e-12)
    return (v_LMN.sign() * (v_LMN.abs() / largest_N).sqrt() * p_LMN.sqrt()).mean(-1).cpu()
