"""Whether a module's score foretells what noise on it does to the answer: per layer, module and group of tokens."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vlmend.attribution.base import attribute
from vlmend.attribution.target import Target
from vlmend.evaluation.faithfulness import noise_effect, rank_correlation
from vlmend.models.vlm import VLM
from vlmend.world.attribution.asking import Finding, Trial, about_one_thing

__all__ = ["agreement"]

_SHARE = 8
_SCORES: dict[str, Callable[[Tensor], Tensor]] = {"contributions": lambda s: s, "decomposition": lambda s: s.abs()}


def agreement(vlm: VLM, trial: Trial) -> list[Finding]:
    """Rank correlation of both methods' scores of modules with what noise there takes from the answer."""
    scores: dict[str, list[list[float]]] = {}
    lost: dict[str, list[list[float]]] = {}
    for index, one in enumerate(about_one_thing(max(2, trial.n // _SHARE), trial.seed + 3)):
        target = Target(vlm.generate(vlm.prepare([one.example]), max_new_tokens=16)[0], token=0)
        for method, size in _SCORES.items():
            found = attribute(vlm, one.example, method, target)
            scores.setdefault(method, []).append(size(found.scores).flatten().tolist())
        for group, lost_LM in noise_effect(vlm, one.example, target, seed=index).items():
            lost.setdefault(group, []).append(lost_LM.flatten().tolist())
    return [
        Finding(
            method,
            f"rank correlation with the effect of noise on {_GROUPS[group]}",
            rank_correlation(scores[method], effects).of,
            f"{len(effects[0])} modules a case",
        )
        for method in scores
        for group, effects in lost.items()
    ]


_GROUPS = {
    "before": "the words before the picture",
    "picture": "the picture's tokens",
    "after": "the words after it",
    "last": "the last position",
}
