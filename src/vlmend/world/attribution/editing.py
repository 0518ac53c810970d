"""Whether attributions say where to edit: each layer's score against the success of editing there, and "auto" against
the default layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmend.attribution.base import attribute
from vlmend.data.formats import read
from vlmend.data.records import EditCase
from vlmend.editors.base import editor
from vlmend.evaluation.editing import compare
from vlmend.evaluation.faithfulness import rank_correlation
from vlmend.evaluation.proof import Proof
from vlmend.evaluation.protocols import DEFAULT
from vlmend.evaluation.stats import bootstrap, paired
from vlmend.models.vlm import VLM
from vlmend.world.attribution.asking import Finding, Trial

__all__ = ["editing"]

_EDITORS: dict[str, dict[str, Any]] = {"ft": {"lr": 3e-3}, "visual-delta": {"keep_weight": 0.0, "steps": 20}}
"""Settings for a small model; visual-delta's are shortened, the same for every layer."""

_FORCED = replace(DEFAULT, name="forced", free=False)  # no free answers: there are many edits to measure

_SCORES = ("decomposition", "contributions", "patching, picture", "patching, last")


def editing(vlm: VLM, trial: Trial) -> list[Finding]:
    """On the bundled cases of the model's own errors (at most ``n`` of them).

    An edit's success is the mean over its probes' kinds of the share that is right after it (where it must change) or
    as before (where it must stay), teacher-forced, all tokens of an answer.
    """
    file = Path(str(resources.files("vlmend.world"))) / "demo_cases" / "evqa_eval.jsonl"
    cases = read(file)[: trial.n]
    layers = range(len(vlm.parts.layers))
    scores = [_scores(vlm, case) for case in cases]
    out: list[Finding] = []
    for name, settings in _EDITORS.items():
        made = [editor(name, layers=[layer], **settings) for layer in layers]
        made += [editor(name, **settings), editor(name, layers="auto", **settings)]
        *alone, default, auto = [
            _success(one, cases) for one in compare(vlm, made, cases, protocol=_FORCED, max_new_tokens=0)
        ]
        out += [Finding(f"{name}, layer {layer}", "success", bootstrap(some)) for layer, some in enumerate(alone)]
        out += [Finding(f"{name}, default layers", "success", bootstrap(default))]
        out += [Finding(f"{name}, layers=auto", "success", bootstrap(auto))]
        gain = [a - b for a, b in zip(auto, default, strict=True)]
        out.append(Finding(f"{name}, layers=auto", "success above the default's", paired(gain, range(len(gain)))))
        by_case = [[some[index] for some in alone] for index in range(len(cases))]
        for score in _SCORES:
            found = rank_correlation([one[score].tolist() for one in scores], by_case)
            out.append(Finding(f"{name}, {score}", "rank correlation with success by layer", found.of))
    for score in _SCORES:
        mean_L = torch.stack([one[score] for one in scores]).mean(0)
        out += [
            Finding(f"{score}, layer {layer}", "explains", bootstrap([float(one[score][layer]) for one in scores]))
            for layer in range(len(mean_L))
        ]
    return out


def _scores(vlm: VLM, case: EditCase) -> dict[str, Tensor]:
    """Each method's score of every layer for the case's answer: [L]."""
    patched = attribute(vlm, case, "patching")
    return {
        "decomposition": attribute(vlm, case, "decomposition").total("module").scores.abs(),
        "contributions": attribute(vlm, case, "contributions").total("module").scores,
        "patching, picture": patched.at(group="picture").scores,
        "patching, last": patched.at(group="last").scores,
    }


def _success(proof: Proof, cases: Sequence[EditCase]) -> list[float]:
    """Of every case's edit: mean over kinds of probes."""
    out: list[float] = []
    for case in cases:
        kinds: dict[str, list[float]] = {}
        for record in proof.records:
            if record.case == case.id and record.tf_exact_after is not None:
                kinds.setdefault(record.kind, []).append(record.tf_exact_after)
        means = [sum(some) / len(some) for some in kinds.values()]
        out.append(sum(means) / len(means))
    return out
