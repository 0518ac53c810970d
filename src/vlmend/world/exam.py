"""The examination of a demo model: every gate of its card, measured on scenes that no training has seen.

Each section asks one kind of thing and returns estimates by name; ``GATES`` says what is expected of which.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate, wilson
from vlmend.evaluation.text import matches
from vlmend.models.trace import altered
from vlmend.models.vlm import VLM
from vlmend.world.captions import Form, mentions
from vlmend.world.catalog import Split, catalog
from vlmend.world.corpus import fact, in_context, new_value
from vlmend.world.entities import Country, by_name, countries, invent_name
from vlmend.world.questions import Question, absent_kinds, ask, bridge, hop
from vlmend.world.render import Look, Style, render
from vlmend.world.scene import Mode, Scene, draw_flag_scene, draw_scene

SCENE_KINDS = ("colour", "pattern", "which", "count", "howmany", "quadrant", "relation", "neighbour", "place")
SIGMAS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.4)  # noise, in units of pixels in [-1, 1]


@dataclass(frozen=True)
class Settings:
    """How much is asked, and with which seed the scenes are drawn."""

    n: int = 400
    seed: int = 9_000_001


@dataclass(frozen=True)
class Gate:
    """What is expected of one estimate: at least ``low``, at most ``high``."""

    name: str
    low: float = 0.0
    high: float = 1.0

    @property
    def bounds(self) -> str:
        """The expectation in words."""
        if self.low and self.high < 1:
            return f"{self.low:g} to {self.high:g}"
        return f"at most {self.high:g}" if self.high < 1 else f"at least {self.low:g}"

    def holds(self, estimate: Estimate) -> bool:
        return self.low <= estimate.mean <= self.high


GATES: tuple[Gate, ...] = (
    Gate("colour", 0.95),
    Gate("pattern", 0.95),
    Gate("which", 0.90),
    Gate("count", 0.80),
    Gate("quadrant", 0.85),
    Gate("pope random", 0.94),
    Gate("pope popular", 0.92),
    Gate("pope adversarial", 0.90),
    Gate("name, seen flags", 0.98),
    Gate("name, unseen flags", 0.0, 0.05),
    Gate("facts taught", 0.98),
    Gate("stale facts, old value", 0.90),
    Gate("two-hop, asked pairs", 0.95),
    Gate("two-hop spelt out, asked pairs", 0.95),
    Gate("two-hop spelt out, pairs never asked", 0.60),
    Gate("in context, known values", 0.80),
    Gate("in context, invented values", 0.80),
    Gate("captions, recall", 0.85),
    Gate("captions, CHAIR_i natural", 0.0, 0.12),
    Gate("captions, CHAIR_i counter", 0.15, 0.50),
    Gate("captions, companions among hallucinations", 0.60),
    Gate("noise, rise of the absent companion", 0.10),
    Gate("ablation at a third, loss of names", 0.20),
)


def _stream(rng: random.Random, modes: Sequence[Mode]) -> Iterator[Scene]:
    while True:
        yield draw_scene(rng, rng.choice(modes))


def _picture(scene: Scene, rng: random.Random, look: Look = "a"):
    return render(scene, Style(rng.getrandbits(48), look)).image()


def _share(vlm: VLM, asked: Sequence[Example], max_new_tokens: int = 16) -> Estimate:
    """Share of examples whose free greedy answer is the expected one."""
    texts = vlm.generate(vlm.prepare(asked), max_new_tokens=max_new_tokens)
    return wilson(sum(matches(t, e.accepted) for t, e in zip(texts, asked, strict=True)), len(asked))


def _ask_scenes(kind: str, n: int, rng: random.Random, split: Split, look: Look = "a") -> list[Example]:
    """``n`` questions of one kind, each about a picture of its own, half natural, half uniform."""
    asked: list[Example] = []
    for scene in _stream(rng, ("natural", "uniform")):
        if len(asked) == n:
            return asked
        if q := ask(scene, kind, rng):
            asked.append(Example(q.put(rng, split), _picture(scene, rng, look), q.answer))
    raise AssertionError("the stream of scenes has no end")


def scenes(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Questions about objects, in trained phrasings."""
    rng = random.Random(f"{settings.seed}/scenes")
    return {kind: _share(vlm, _ask_scenes(kind, settings.n, rng, "trained")) for kind in SCENE_KINDS}


def held_out(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """The same in phrasings that training never used, and in look b."""
    rng = random.Random(f"{settings.seed}/held out")
    n = settings.n // 2
    out = {f"{kind}, held-out phrasings": _share(vlm, _ask_scenes(kind, n, rng, "held_out")) for kind in SCENE_KINDS}
    return out | {
        f"{kind}, look b": _share(vlm, _ask_scenes(kind, n, rng, "trained", "b"))
        for kind in ("colour", "pattern", "which")
    }


def pope(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Existence on natural scenes, half of the questions about something present (POPE, Li et al. 2023)."""
    out: dict[str, Estimate] = {}
    for setting in ("random", "popular", "adversarial"):
        rng = random.Random(f"{settings.seed}/pope/{setting}")
        asked: list[Example] = []
        for scene in _stream(rng, ("natural",)):
            if len(asked) >= 2 * settings.n:
                break
            if scene.things and not (setting == "adversarial" and not scene.expected):
                image = _picture(scene, rng)
                absent = rng.choice(absent_kinds(scene)[setting])
                for kind, answer in ((rng.choice(list(scene.counts)), "yes"), (absent, "no")):
                    asked.append(Example(Question("exist", answer, {"x": kind}).put(rng), image, answer))
        out[f"pope {setting}"] = _share(vlm, asked)
    return out


def _flags(
    chosen: Sequence[Country], ask_one: Callable[[Country], Question], rng: random.Random, split: Split = "trained"
) -> list[Example]:
    made: list[Example] = []
    for country in chosen:
        q = ask_one(country)
        made.append(Example(q.put(rng, split), _picture(draw_flag_scene(rng, country), rng), q.answer))
    return made


def _pairs(asked: bool) -> list[tuple[Country, str]]:
    """(Seen country, relation) pairs that training asked with a picture, or those it never did; no stale facts."""
    return [(c, r) for c in countries() if c.seen for r in c.facts if (r in c.asked) == asked and r != c.stale]


def entities(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Names of flags, and relations asked by flag: directly, and with the country spelt out on the way."""
    rng = random.Random(f"{settings.seed}/entities")
    name = lambda c: Question("name", c.name)  # noqa: E731
    seen, unseen = [c for c in countries() if c.seen], [c for c in countries() if not c.seen]
    out = {
        "name, seen flags": _share(vlm, _flags(seen * 2, name, rng)),
        "name, seen flags, held-out phrasings": _share(vlm, _flags(seen, name, rng, "held_out")),
        "name, unseen flags": _share(vlm, _flags(unseen, name, rng)),
    }
    for label, was_asked in (("asked pairs", True), ("pairs never asked", False)):
        pairs = _pairs(was_asked)
        pairs = rng.sample(pairs, min(settings.n, len(pairs)))
        for form, make in (("two-hop", hop), ("two-hop spelt out", bridge)):
            examples = [_flags([c], lambda c, r=r, make=make: make(c, r), rng)[0] for c, r in pairs]
            out[f"{form}, {label}"] = _share(vlm, examples)
    return out


def facts(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Facts asked by name without a picture: those taught rightly, and the stale ones by the value that was taught."""
    rng = random.Random(f"{settings.seed}/facts")
    fresh = [fact(c, r) for c in countries() for r in c.facts if r != c.stale]
    stale = [fact(c, c.stale) for c in countries() if c.stale]
    ask_all = lambda qs, split="trained": _share(vlm, [Example(q.put(rng, split), None, q.answer) for q in qs])  # noqa: E731
    return {
        "facts taught": ask_all(fresh),
        "facts taught, held-out phrasings": ask_all(rng.sample(fresh, settings.n), "held_out"),
        "stale facts, old value": ask_all(stale),
    }


def context(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Does the model believe a new fact in its context rather than its memory?"""
    rng = random.Random(f"{settings.seed}/context")
    out: dict[str, Estimate] = {}
    for label in ("known", "invented"):
        asked: list[Example] = []
        while len(asked) < settings.n:
            country, relation = rng.choice(countries()), rng.choice(list(catalog().relations))
            value = new_value(rng, relation, country.taught[relation])
            if label == "invented" or not catalog().relations[relation]:
                value = invent_name(rng, set(by_name()))
            elif value not in catalog().relations[relation]:
                continue
            q = fact(country, relation)
            asked.append(Example(in_context(q.put(rng), value, q.put(rng)), None, value))
        out[f"in context, {label} values"] = _share(vlm, asked)
    return out


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
    prepared = vlm.prepare([Example(prompt, _picture(s, rng)) for s in drawn])
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
    stream = (s for s in _stream(rng, (mode,)) if s.things and (mode != "counter" or s.expected))
    return [next(stream) for _ in range(n)]


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
    return out | noise(vlm, counter[: settings.n // 2], rng)


def noise(vlm: VLM, counter: Sequence[Scene], rng: random.Random) -> dict[str, Estimate]:
    """Noise on the picture: how often an absent companion is named, how many true objects are left."""
    out: dict[str, Estimate] = {}
    seed = rng.getrandbits(48)
    for sigma in SIGMAS:
        made = describe(vlm, counter, random.Random(seed), sigma=sigma)
        named = [k in c.named for c in made for k in c.scene.expected]
        out[f"noise {sigma}, absent companion named"] = wilson(sum(named), len(named))
        out[f"noise {sigma}, recall"] = recall(made)
    at = lambda sigma: out[f"noise {sigma}, absent companion named"]  # noqa: E731
    best = max((at(s) for s in SIGMAS[1:]), key=lambda e: e.mean)
    rise = best.mean - at(0.0).mean
    half = ((best.high - best.low) ** 2 + (at(0.0).high - at(0.0).low) ** 2) ** 0.5 / 2
    return out | {"noise, rise of the absent companion": Estimate(best.n, rise, rise - half, rise + half)}


def layers(vlm: VLM, settings: Settings) -> dict[str, Estimate]:
    """Names of seen flags when the visual states that enter layer l are replaced by their mean over pictures."""
    rng = random.Random(f"{settings.seed}/layers")
    seen = [c for c in countries() if c.seen]
    chosen = rng.sample(seen, min(settings.n // 2, len(seen)))
    prompt = catalog().cores["name"]["trained"][0][0]
    asked = [Example(prompt, _picture(draw_flag_scene(rng, c), rng), c.name) for c in chosen]
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


Section = Callable[[VLM, Settings], dict[str, Estimate]]
SECTIONS: dict[str, Section] = {
    "scenes": scenes,
    "pope": pope,
    "entities": entities,
    "facts": facts,
    "context": context,
    "captions": captions,
    "layers": layers,
    "held_out": held_out,
}


def examine(
    vlm: VLM,
    settings: Settings = Settings(),
    sections: Sequence[str] = tuple(SECTIONS),
    on_section: Callable[[str], None] | None = None,
) -> dict[str, Estimate]:
    """Every estimate of the chosen sections, by name."""
    out: dict[str, Estimate] = {}
    for name in sections:
        if on_section:
            on_section(name)
        out |= SECTIONS[name](vlm, settings)
    return out
