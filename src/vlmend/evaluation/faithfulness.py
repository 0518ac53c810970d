"""Is an attribution true? Tests that a heat map, or scores of layers and modules, can fail.

`removal`           the picture is taken away, and given back, in the order of a map; the answer goes and comes with it
`points_at`         the pointing game: the peak of a map lies on the thing that was asked about
`reinitialised`     weights without knowledge: what a map shows under them, it does not show of the model
`noise_effect`      what noise on each module's output does to the answer, to be held against its score
`rank_correlation`  of scores and of what was measured: contributions and noise, layers and the success of edits there

Everything is given with its number of cases and its 95 % interval (`vlmend.evaluation.stats`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from vlmend.attribution.groups import groups_of
from vlmend.attribution.modules import MODULES, modules_of
from vlmend.attribution.result import PLACE, Attribution
from vlmend.attribution.target import Target, strands
from vlmend.data.records import Example
from vlmend.edits.edit import Edit
from vlmend.edits.ops import WeightOp
from vlmend.errors import AttributionError
from vlmend.evaluation.stats import Estimate, bootstrap
from vlmend.models.parts import LayerSpec
from vlmend.models.pictures import open_picture
from vlmend.models.trace import rewritten
from vlmend.models.vlm import VLM

__all__ = [
    "Correlation",
    "Removal",
    "at_random",
    "noise_effect",
    "pointing_chance",
    "points_at",
    "rank_correlation",
    "reinitialised",
    "removal",
    "spearman",
]

_BLUR = 0.25  # of a picture's longer side


@dataclass(frozen=True)
class Removal:
    """What becomes of an answer's probability (the geometric mean of its tokens').

    Attributes:
        deletion: area under it while the picture is taken away in the order of the map, from 0 to 1: low is good.
        insertion: area under it while the picture comes back in that order: high is good.
        kept: its probability at each share of the picture that is left, from all to none, by the map's order.
        restored: at each share that has come back, from none to all.
    """

    deletion: float
    insertion: float
    kept: tuple[float, ...]
    restored: tuple[float, ...]


def removal(vlm: VLM, example: Example, found: Attribution, answer: str, *, steps: int = 10) -> Removal:
    """Deletion and insertion of the picture in the order of a heat map.

    Petsiuk et al., "RISE" (BMVC 2018, arXiv 1806.07421), section 4.1. What is taken away is replaced by the same
    picture blurred over a quarter of its longer side: light and colours of the whole stay, every edge is gone. A flat
    colour would put edges where the map has them, and a model may take the patch for a thing; so deletion blurs too,
    where RISE makes it grey.

    Args:
        vlm: a loaded model.
        example: what was asked; all of its pictures are taken away together.
        found: a map (`Attribution.heat`).
        answer: whose probability is followed.
        steps: how many equal shares of the pixels.

    Raises:
        AttributionError: no map, an answer without tokens, or no step.
    """
    if steps < 1:
        raise AttributionError(f"a picture is taken away in at least one step, not {steps}")
    pictures = [np.asarray(open_picture(one).convert("RGB")) for one in example.pictures]
    blurred = [_blurred(one) for one in pictures]
    heat = np.concatenate([found.heat(index).numpy().ravel() for index in range(len(pictures))])
    order = np.argsort(-np.nan_to_num(heat, nan=-np.inf), kind="stable")  # what the model does not see goes last
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    shares = [round(len(order) * step / steps) for step in range(steps + 1)]
    mixed = [_mixed(blurred, pictures, ranks < count) for count in shares]  # given back
    mixed += [_mixed(pictures, blurred, ranks < count) for count in shares[1:-1]]  # taken away
    prepared = vlm.prepare([replace(example, image=one[0] if len(one) == 1 else one, answer=answer) for one in mixed])
    if not prepared.rows[0].answer_length:
        raise AttributionError(f"the answer {answer!r} has no tokens: there is nothing to follow")
    values = [row.probability for row in vlm.run(prepared).rows]
    restored = values[: steps + 1]
    kept = [restored[-1], *values[steps + 1 :], restored[0]]
    return Removal(_area(kept), _area(restored), tuple(kept), tuple(restored))


def _blurred(picture: np.ndarray) -> np.ndarray:
    radius = _BLUR * max(picture.shape[:2])
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def _mixed(first: Sequence[np.ndarray], second: Sequence[np.ndarray], chosen: np.ndarray) -> tuple[Image.Image, ...]:
    """The first pictures, with the second's pixels where they are chosen."""
    bounds = np.cumsum([one.shape[0] * one.shape[1] for one in first])[:-1]
    masks = [part.reshape(one.shape[:2]) for part, one in zip(np.split(chosen, bounds), first, strict=True)]
    return tuple(
        Image.fromarray(np.where(mask[..., None], other, one))
        for mask, one, other in zip(masks, first, second, strict=True)
    )


def _area(values: Sequence[float]) -> float:
    """Under a curve over equal steps from 0 to 1, by the trapezoid rule."""
    return (sum(values) - (values[0] + values[-1]) / 2) / (len(values) - 1)


def at_random(found: Attribution, seed: int) -> Attribution:
    """A map of the same places with scores drawn at random: the order that a map's is held against."""
    if PLACE not in found.axes:
        raise AttributionError(f"{found.method} has no map: its axes are {', '.join(found.axes) or 'none'}")
    places = found.axes[PLACE]
    scores = torch.rand(len(places), generator=torch.Generator().manual_seed(seed))
    return replace(found, method="random", settings={"seed": seed}, scores=scores, axes={PLACE: places})


def points_at(found: Attribution, mask: np.ndarray, picture: int = 0, *, middle: bool = False) -> bool:
    """The pointing game: whether the place with the highest score shows some of the thing.

    Zhang et al., "Top-down Neural Attention by Excitation Backprop" (ECCV 2016, arXiv 1608.00507), section 4.1; a place
    is what a map can tell apart, as there are the pixels around the peak.

    Args:
        found: a map.
        mask: bool [height, width], the thing's pixels in the original picture.
        picture: which of the example's.
        middle: whether the place's middle must lie on the thing, which is harder.

    Raises:
        AttributionError: no map, or a mask of another size.
    """
    width, height = found.sizes[picture]
    if mask.shape != (height, width):
        raise AttributionError(f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the picture {width} x {height}")
    x, y = found.peak(picture)
    if middle:
        return bool(mask[min(int(y), height - 1), min(int(x), width - 1)])
    boxes = [one.box for one in found.places if one.picture == picture and one.box is not None]
    return any(_shows(mask, box) for box in boxes if ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) == (x, y))


def pointing_chance(found: Attribution, mask: np.ndarray, picture: int = 0, *, middle: bool = False) -> float:
    """The share of places that would be a hit of `points_at`: what pointing anywhere at random has."""
    here = [one.box for one in found.places if one.picture == picture and one.box is not None]
    if middle:
        height, width = mask.shape
        middles = [(min(int((a + c) / 2), width - 1), min(int((b + d) / 2), height - 1)) for a, b, c, d in here]
        return float(np.mean([mask[y, x] for x, y in middles]))
    return float(np.mean([_shows(mask, box) for box in here]))


def _shows(mask: np.ndarray, box: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = (round(edge) for edge in box)
    return bool(mask[top : max(bottom, top + 1), left : max(right, left + 1)].any())


def reinitialised(
    vlm: VLM, roles: Sequence[str] = ("attn", "mlp"), *, layers: LayerSpec = "all", seed: int = 0
) -> Edit:
    """Weights without knowledge, as an edit: the matrices of these modules are drawn anew with their own spread.

    Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018, arXiv 1810.03292), section 3: what a map still
    shows with such weights it does not show of what the model learnt.

    Args:
        vlm: a loaded model; left as it is.
        roles: of modules in the decoder's layers, and "vision", "connector" or "head".
        layers: which.
        seed: of the draw.

    Raises:
        PartsError: the model has no such layers or modules.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = vlm.weights.named(vlm.parts.modules(layers, roles), matrices_only=True)
    drawn = {
        name: torch.randn(weight.shape, generator=generator) * float(weight.detach().float().std())
        for name, weight in weights.items()
    }
    return Edit(vlm.fingerprint, (WeightOp.values(drawn),), method="reinitialised", settings={"seed": seed})


@torch.no_grad()
def noise_effect(
    vlm: VLM, example: Example, target: Target, *, size: float = 1.0, draws: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    """What the target's value loses, in nats, when noise is put on a module's output at one group of tokens.

    The effect that a module's contribution should foretell. Noise is Gaussian, and its length at each token ``size``
    times the length of what the module gave there.

    Args:
        vlm: a loaded model.
        example: what is asked.
        target: whose value is measured; one answer.
        size: of the noise.
        draws: of the noise; the mean is taken.
        seed: of the noise.

    Returns:
        For each group of tokens (`vlmend.attribution.groups.groups_of`) the loss by layer and module: [L, 2].
    """
    clean = strands(vlm, example, target)[0].read(vlm)
    strand = clean.strand
    whole = float(strand.value(clean.logits_NV, "log_prob"))
    groups = groups_of(strand)
    generator = torch.Generator().manual_seed(seed)
    lost_GLM = torch.zeros(len(groups), len(vlm.parts.layers), len(MODULES))
    variants = [(group, positions) for group, positions in enumerate(groups.values()) for _ in range(draws)]
    copies = strand.prepared.take([0] * len(variants))
    for layer in range(len(vlm.parts.layers)):
        for column, (_, module) in enumerate(modules_of(vlm.parts, layer).items()):

            def noisy(output: Tensor) -> Tensor:
                changed_BTD = output.clone().view(len(variants), strand.length, -1)
                for row, (_, positions) in enumerate(variants):
                    given_GD = changed_BTD[row, positions]
                    noise_GD = torch.randn(given_GD.shape, generator=generator).to(given_GD)
                    scale_G1 = given_GD.norm(dim=-1, keepdim=True) / noise_GD.norm(dim=-1, keepdim=True)
                    changed_BTD[row, positions] = given_GD + size * scale_G1 * noise_GD
                return changed_BTD.view(output.shape)

            with rewritten({module: noisy}):
                rows = vlm.run(copies).rows
            for (group, _), row in zip(variants, rows, strict=True):
                lost_GLM[group, layer, column] += (whole - float(strand.value(row.logits_NV, "log_prob"))) / draws
    return dict(zip(groups, lost_GLM, strict=True))


@dataclass(frozen=True)
class Correlation:
    """How well an order foretells another.

    Attributes:
        of: Spearman's rank correlation, mean over cases, with its interval.
        pairs: how many pairs of values each case has.
    """

    of: Estimate
    pairs: int


def rank_correlation(scores: Sequence[Sequence[float]], measured: Sequence[Sequence[float]]) -> Correlation:
    """Rank correlation of scores and of what was measured of the same things, case by case.

    As a layer's score and the measured success of editing there: whether what explains an answer says where to edit
    it (Hase et al., "Does Localization Inform Editing?", NeurIPS 2023, arXiv 2301.04213: often not).

    Args:
        scores: for each case one score for each layer (module, place).
        measured: the same of what was measured. A case in which either has but one value has no order and is left out.

    Raises:
        AttributionError: both have not the same cases, or the same number of values.
    """
    if [len(one) for one in scores] != [len(one) for one in measured]:
        raise AttributionError("scores and measurements are not of the same things: one has more than the other")
    found = [spearman(one, other) for one, other in zip(scores, measured, strict=True)]
    return Correlation(bootstrap([value for value in found if not math.isnan(value)]), len(scores[0]) if scores else 0)


def spearman(scores: Sequence[float], measured: Sequence[float]) -> float:
    """Spearman's rank correlation, ties with their mean rank; nan where one of both is all alike."""
    first, second = _ranks(scores), _ranks(measured)
    first, second = first - first.mean(), second - second.mean()
    spread = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / spread if spread else math.nan


def _ranks(values: Sequence[float]) -> np.ndarray:
    given = np.asarray(values, dtype=float)
    below = (given[None] < given[:, None]).sum(1)
    alike = (given[None] == given[:, None]).sum(1)
    return below + (alike - 1) / 2
