"""Captions: what is left out, what is made up, and what noise on the picture does to both."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate, bootstrap, wilson
from vlmend.models.vlm import VLM
from vlmend.world.captions import Form, mentions
from vlmend.world.catalog import catalog
from vlmend.world.exam.asking import Settings, picture, stream
from vlmend.world.scene import Mode, Scene

SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.4, 2.0)  # noise, in units of pixels in [-1, 1]


@dataclass(frozen=True)
class Captioned:
    """A scene and the kinds that a caption of it named."""

    scene: Scene
    named: tuple[str, ...]

    @property
    def invented(self) -> list[str]:
        return [k for k in self.named if k not in self.scene.counts]


def describe(
    vlm: VLM, drawn: Sequence[Scene], rng: random.Random, form: Form = "short", sigma: float = 0.0
) -> list[Captioned]:
    """Caption each scene greedily from one rendering; noise of this standard deviation is added to its pixels."""
    prompt = catalog().cores[f"{form}_caption"]["trained"][0][0]
    prepared = vlm.prepare([Example(prompt, picture(s, rng)) for s in drawn])
    if sigma:
        noise = torch.Generator().manual_seed(rng.getrandbits(40))
        draw = lambda x: x + sigma * torch.randn(x.shape, generator=noise)  # noqa: E731
        pictures = {
            k: {n: draw(x) if n == "pixel_values" else x for n, x in p.items()} for k, p in prepared.pictures.items()
        }
        prepared = replace(prepared, pictures=pictures)
    texts = vlm.generate(prepared, max_new_tokens=60)
    return [Captioned(s, tuple(mentions(t))) for s, t in zip(drawn, texts, strict=True)]


def chair_i(captions: Sequence[Captioned]) -> Estimate:
    """Share of named kinds that are not in the picture (CHAIR_i, Rohrbach et al. 2018)."""
    return wilson(sum(len(c.invented) for c in captions), sum(len(c.named) for c in captions))


def recall(captions: Sequence[Captioned]) -> Estimate:
    """Share of the kinds present that are named."""
    return wilson(
        sum(k in c.named for c in captions for k in c.scene.counts), sum(len(c.scene.counts) for c in captions)
    )


def draw_described(mode: Mode, n: int, rng: random.Random) -> list[Scene]:
    """``n`` scenes with something in them; counter-prior ones lack an expected companion."""
    drawn = (s for s in stream(rng, (mode,)) if s.things and (mode != "counter" or s.expected))
    return [next(drawn) for _ in range(n)]


def captions(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Short and detailed captions of natural and counter-prior scenes, and what noise does to them."""
    rng = random.Random(f"{settings.seed}/captions")
    natural, counter = draw_described("natural", settings.n, rng), draw_described("counter", settings.n, rng)
    told, against = describe(vlm, natural, rng), describe(vlm, counter, rng)
    invented = [(k in c.scene.expected) for c in against for k in c.invented]
    out = {
        "captions, recall": recall(told),
        "captions, CHAIR_i natural": chair_i(told),
        "captions, CHAIR_i counter": chair_i(against),
        "captions, CHAIR_s counter": wilson(sum(bool(c.invented) for c in against), len(against)),
        "captions, recall counter": recall(against),
        "captions, companions among hallucinations": wilson(sum(invented), len(invented)),
        "detailed captions, CHAIR_i counter": chair_i(describe(vlm, counter[: settings.n // 2], rng, "detailed")),
    }
    return out | noise(vlm, counter, rng)


def _absent_named(made: Sequence[Captioned]) -> Estimate:
    named = [k in c.named for c in made for k in c.scene.expected]
    return wilson(sum(named), len(named))


def noise(vlm: VLM, counter: Sequence[Scene], rng: random.Random) -> dict[str, Estimate]:
    """Noise on the picture: how often an absent companion is named, how many true objects are left.

    The level at which companions are named most is chosen on every second scene, the rise measured on the others.
    """
    seed = rng.getrandbits(48)
    made = {sigma: describe(vlm, counter, random.Random(seed), sigma=sigma) for sigma in SIGMAS}
    out: dict[str, Estimate] = {}
    for sigma, captioned in made.items():
        out[f"noise {sigma}, absent companion named"] = _absent_named(captioned)
        out[f"noise {sigma}, recall"] = recall(captioned)
    best = max(SIGMAS[1:], key=lambda sigma: _absent_named(made[sigma][::2]).mean)
    scenes = [c.scene for c in made[best][1::2]]
    pairs = zip(made[0.0][1::2], made[best][1::2], strict=True)
    rises = [
        (i, float(k in noisy.named) - float(k in clean.named))
        for i, (clean, noisy) in enumerate(pairs)
        for k in scenes[i].expected
    ]
    rise = bootstrap([r for _, r in rises], [i for i, _ in rises])
    return out | {"noise, rise of the absent companion": rise}
