"""decomposition: a token's logit as an exact sum over what each module wrote into the residual stream.

The last state is the sum of the token embedding and of all that attention and MLP added (and of what a family adds
between layers: Qwen3-VL's deep visual features). The final norm is frozen: the scale (for a LayerNorm the mean too) of
the last state is used for every part, so that it becomes a linear map, and each part's share of the logit is

    share(part) = head_k · (w * s * part)      for  norm(h) = w * s(h) * h + b

as in direct logit attribution (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). Shares and
bias add up to the logit: the error is reported. It is the logit that the head gives: a cap that a family puts on it
afterwards is left out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlmend.attribution.base import made
from vlmend.attribution.modules import MODULES, added
from vlmend.attribution.result import Attribution, Completeness
from vlmend.attribution.target import OWN, Clean, Target, asked, strands
from vlmend.errors import AttributionError
from vlmend.models.parts import Parts
from vlmend.models.prepared import Asked
from vlmend.models.trace import Call
from vlmend.models.vlm import VLM

__all__ = ["Decomposition"]

_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Decomposition:
    """Each module's share of the target's logit; axes layer and module; the embedding and others in ``rest``."""

    name: ClassVar[str] = "decomposition"

    def attribute(self, vlm: VLM, example: Asked, target: Target = OWN) -> Attribution:
        """See `vlmend.attribution.base.Attributor`.

        Raises:
            AttributionError: the layers do not add to a residual stream, or the final norm is of no known form.
            PartsError: a layer has no attention or MLP of a known name.
        """
        parts = vlm.parts
        watched = {f"layer {index}": layer for index, layer in enumerate(parts.layers)} | {"norm": parts.norm}
        cleans = [strand.read(vlm, watched) for strand in strands(vlm, asked(example), target)]
        scores_LM = torch.zeros(len(parts.layers), len(MODULES), dtype=torch.float64)
        rest: Counter[str] = Counter()
        expected = 0.0
        for clean in cleans:
            shares = _shares(parts, clean)
            scores_LM += clean.strand.sign * shares.scores_LM
            rest.update({name: clean.strand.sign * share for name, share in shares.rest.items()})
            expected += clean.strand.sign * shares.logit
        return made(
            self,
            vlm,
            cleans,
            target,
            "logit",
            scores_LM,
            {"layer": tuple(range(len(parts.layers))), "module": MODULES},
            rest=dict(rest),
            completeness=Completeness(expected, float(scores_LM.sum()) + sum(rest.values())),
        )


@dataclass(frozen=True, eq=False)
class _Shares:
    """Shares of one strand's mean logit: of modules [L, 2], of the rest, and the logit itself."""

    scores_LM: Tensor
    rest: dict[str, float]
    logit: float


@torch.no_grad()
def _shares(parts: Parts, clean: Clean) -> _Shares:
    strand = clean.strand
    assert strand.tokens_N is not None
    places = list(strand.positions)
    normed = clean.of("norm")
    last_ND = _entered(normed)[0, places].double()
    head: Any = parts.head
    rows_ND = head.weight[strand.tokens_N.to(head.weight.device)].double()
    frozen = _frozen(parts.norm, last_ND, normed.output[0, places].double())
    direction_ND = frozen.pulled_back(rows_ND)

    def share(part_TD: Tensor) -> float:
        return float((direction_ND * part_TD[places].double()).sum(-1).mean())

    logits_NV = parts.head(normed.output[0, places])
    logit = float(logits_NV.gather(-1, strand.tokens_N.to(logits_NV.device)[:, None]).double().mean())
    bias = (rows_ND * frozen.bias_D).sum(-1).mean()
    if getattr(head, "bias", None) is not None:
        bias = bias + head.bias[strand.tokens_N.to(head.bias.device)].double().mean()

    calls = [clean.of(f"layer {index}") for index in range(len(parts.layers))]
    scores: list[list[float]] = []
    between = 0.0
    for index, (call, after) in enumerate(zip(calls, [*calls[1:], normed], strict=True)):
        one = added(parts, index, call)
        scores.append([share(one.attention_BTD[0]), share(one.mlp_BTD[0])])
        between += share(_entered(after)[0].float() - one.left_BTD[0])
    rest = {"embedding": share(_entered(calls[0])[0]), "between layers": between, "bias": float(bias)}
    return _Shares(torch.tensor(scores, dtype=torch.float64), rest, logit)


def _entered(call: Call) -> Tensor:
    assert call.input is not None
    return call.input.detach()


@dataclass(frozen=True, eq=False)
class _Frozen:
    """A norm as a linear map at given states: ``norm(h) = weight * scale * (h - centred * mean(h)) + bias``."""

    weight_D: Tensor
    bias_D: Tensor
    scale_N1: Tensor
    centred: bool

    def __call__(self, states_ND: Tensor) -> Tensor:
        middle = states_ND.mean(-1, keepdim=True) if self.centred else 0.0
        return self.weight_D * self.scale_N1 * (states_ND - middle) + self.bias_D

    def pulled_back(self, rows_ND: Tensor) -> Tensor:
        """Directions whose product with a part of the states is that of ``rows_ND`` with the normed part."""
        direction_ND = rows_ND * self.weight_D * self.scale_N1
        return direction_ND - direction_ND.mean(-1, keepdim=True) if self.centred else direction_ND


def _frozen(norm: nn.Module, states_ND: Tensor, normed_ND: Tensor) -> _Frozen:
    """The norm as it was at some states, whatever its class: weight and bias are measured by what it makes of ±1.

    Raises:
        AttributionError: it does not scale states by one number for each position.
    """
    parameter = next(norm.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    signs_D = torch.ones(states_ND.shape[-1], dtype=dtype, device=states_ND.device)
    signs_D[1::2] = -1.0  # of mean 0, and of length 1 in both norms' measure
    plus_D, minus_D = norm(signs_D[None])[0].double(), norm(-signs_D[None])[0].double()
    weight_D, bias_D = (plus_D - minus_D) / 2 * signs_D.double(), (plus_D + minus_D) / 2
    found: list[tuple[float, _Frozen]] = []
    for centred in (False, True):
        one = _Frozen(weight_D, torch.zeros_like(bias_D), torch.ones_like(states_ND[:, :1]), centred)
        plain_ND, wanted_ND = one(states_ND), normed_ND - bias_D
        scale_N1 = (plain_ND * wanted_ND).sum(-1, keepdim=True) / plain_ND.square().sum(-1, keepdim=True).clamp(1e-30)
        fitted = _Frozen(weight_D, bias_D, scale_N1, centred)
        error = float((fitted(states_ND) - normed_ND).abs().max() / normed_ND.abs().max().clamp(1e-30))
        found.append((error, fitted))
    error, best = min(found, key=lambda one: one[0])
    if error > max(_TOLERANCE, 4 * torch.finfo(dtype).eps):
        raise AttributionError(f"its final norm ({type(norm).__name__}) does not scale states by one number a position")
    return best
