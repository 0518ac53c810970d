"""Where in the decoder the picture is used: visual states replaced by their mean, layer by layer."""

from __future__ import annotations

import random

from torch import Tensor

from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate, wilson
from vlmend.evaluation.text import matches
from vlmend.models.trace import altered
from vlmend.models.vlm import VLM
from vlmend.world.catalog import catalog
from vlmend.world.entities import countries
from vlmend.world.exam.asking import Settings, picture
from vlmend.world.scene import draw_flag_scene


def layers(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Names of seen flags when the visual states that enter layer l are replaced by their mean over pictures."""
    rng = random.Random(f"{settings.seed}/layers")
    seen = [c for c in countries() if c.seen]
    chosen = rng.sample(seen, min(settings.n // 2, len(seen)))
    prompt = catalog().cores["name"]["trained"][0][0]
    asked = [Example(prompt, picture(draw_flag_scene(rng, c), rng), c.name) for c in chosen]
    prepared = vlm.prepare(asked)
    visual = prepared.rows[0].visual_T  # one prompt, so the same places in every row

    def mean_of_pictures(hidden_BTD: Tensor) -> Tensor:
        if hidden_BTD.shape[1] != len(visual):  # a step of cached decoding
            return hidden_BTD
        out = hidden_BTD.clone()
        out[:, visual] = out[:, visual].mean(0)
        return out

    right = lambda: wilson(  # noqa: E731
        sum(matches(t, e.accepted) for t, e in zip(vlm.generate(prepared, max_new_tokens=12), asked, strict=True)),
        len(asked),
    )
    clean = right()
    out = {"ablation, none": clean}
    for index, layer in enumerate(vlm.parts.layers):
        with altered(layer, mean_of_pictures):
            out[f"ablation, entering layer {index}"] = right()
    third = out[f"ablation, entering layer {-(-len(vlm.parts.layers) // 3)}"]
    half = ((third.high - third.low) ** 2 + (clean.high - clean.low) ** 2) ** 0.5 / 2
    lost = clean.mean - third.mean
    return out | {"ablation at a third, loss of names": Estimate(len(asked), lost, lost - half, lost + half)}
