"""Errors of two kinds by construction, and which kind `cause_of` takes them for.

Mis-known: a relation of a country whose fact the text corpus has wrong, asked by its flag, where the model names the
country rightly and gives the value of the corpus. Mis-seen, of the same form: a relation asked by a flag in a bad light
(noise, blur, darkness), where the model names another country and gives a wrong value. Mis-seen of another form: how
many there are, which thing has a colour, whether something is there, answered wrongly; all of that can be seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from vlmend.attribution.cause import Cause, cause_of
from vlmend.data.records import Example
from vlmend.evaluation.stats import wilson
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.world.attribution.asking import Finding, Trial
from vlmend.world.catalog import catalog
from vlmend.world.entities import Country, countries
from vlmend.world.questions import ask, hop
from vlmend.world.render import Style, render
from vlmend.world.scene import draw_flag_scene, draw_scene

__all__ = ["GROUPS", "causes"]

_BATCH = 32
_PATIENCE = 40  # batches after which a group is as large as it gets
_SCENES = ("count", "which", "exist")
_TOKENS = 12


@dataclass(frozen=True, eq=False)
class Drawn:
    """A question that may be answered wrongly; by a flag its country, and the wrong answer that makes it an error of
    its group (``None``: any)."""

    example: Example
    country: Country | None = None
    wrong: str | None = None


def _stale(rng: random.Random) -> Drawn:
    country = rng.choice([one for one in countries() if one.seen and one.stale])
    relation = country.stale or ""
    example = Example(hop(country, relation).put(rng), _flag(country, rng), country.facts[relation])
    return Drawn(example, country, country.taught[relation])


def _misread(rng: random.Random) -> Drawn:
    country = rng.choice([one for one in countries() if one.seen and one.asked - {one.stale}])
    relation = rng.choice(sorted(country.asked - {country.stale}))
    question = hop(country, relation)
    return Drawn(Example(question.put(rng), _bad_light(_flag(country, rng), rng), country.facts[relation]), country)


def _scene(rng: random.Random) -> Drawn:
    while True:
        scene = draw_scene(rng, rng.choice(("natural", "counter", "uniform")))
        if question := ask(scene, rng.choice(_SCENES), rng):
            picture = render(scene, Style(rng.getrandbits(48))).image()
            return Drawn(Example(question.put(rng), picture, question.answer))


def _flag(country: Country, rng: random.Random) -> Image.Image:
    return render(draw_flag_scene(rng, country), Style(rng.getrandbits(48))).image()


def _bad_light(picture: Image.Image, rng: random.Random) -> Image.Image:
    pixels, noise = np.asarray(picture, dtype=float), np.random.default_rng(rng.getrandbits(32))
    way = rng.choice(("noise", "blur", "dark"))
    if way == "blur":
        return picture.filter(ImageFilter.GaussianBlur(rng.uniform(4, 8)))
    if way == "noise":
        pixels = pixels + noise.normal(0, rng.uniform(60, 110), pixels.shape)
    else:
        pixels = pixels * rng.uniform(0.15, 0.35) + noise.normal(0, 8, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


GROUPS: dict[str, tuple[str, bool | None, Callable[[random.Random], Drawn]]] = {
    "stale facts by flag": ("mis-known", True, _stale),
    "misread flags": ("mis-seen", False, _misread),
    "misread scenes": ("mis-seen", None, _scene),
}
"""Name -> the kind of error, whether the country must be named rightly (``None``: there is none), what is drawn."""

_SIGNALS: dict[str, Callable[[Cause], float]] = {
    "held over altered views": lambda cause: cause.held,
    "the answer's own probability": lambda cause: cause.seen,
}
"""What is compared with the threshold; the first is what `cause_of` goes by."""


def causes(vlm: VLM, trial: Trial) -> list[Finding]:
    """How often the kind is hit: of each group, of all, and of questions by flag alone; the threshold is chosen apart.

    Half of the cases are mis-known, a quarter each misread flags and misread scenes.
    """
    chosen_on, reported_on = _weighed(vlm, trial.choosing), _weighed(vlm, trial)
    out: list[Finding] = []
    for signal, value in _SIGNALS.items():
        firm = _best(chosen_on, value)
        note = f"{signal}: firm from {firm:.2f} on, chosen on {sum(map(len, chosen_on.values()))} other cases"
        hits = {
            name: [(value(one) >= firm) == (GROUPS[name][0] == "mis-known") for one in some]
            for name, some in reported_on.items()
        }
        flags = hits["stale facts by flag"] + hits["misread flags"]
        rows = hits | {"questions by flag": flags, "all": flags + hits["misread scenes"]}
        out += [
            Finding(name, f"kind of error hit, by {signal}", wilson(sum(some), len(some)), note)
            for name, some in rows.items()
        ]
    return out


def _weighed(vlm: VLM, trial: Trial) -> dict[str, list[Cause]]:
    """What errors are taken for, by group."""
    sizes = {name: trial.n // 2 if kind == "mis-known" else trial.n // 4 for name, (kind, _, _) in GROUPS.items()}
    return {
        name: [
            cause_of(vlm, one, max_new_tokens=_TOKENS)
            for one in _errors(vlm, name, size, random.Random(f"{trial.seed}/{name}"))
        ]
        for name, size in sizes.items()
    }


def _errors(vlm: VLM, group: str, count: int, rng: random.Random) -> list[Example]:
    """Errors of one group."""
    _, named, draw = GROUPS[group]
    found: list[Example] = []
    for _ in range(_PATIENCE):
        found += list(_wrong(vlm, [draw(rng) for _ in range(_BATCH)], named))
        if len(found) >= count:
            break
    return found[:count]


def _wrong(vlm: VLM, drawn: Sequence[Drawn], named: bool | None) -> Iterator[Example]:
    said = vlm.generate(vlm.prepare([one.example for one in drawn]), max_new_tokens=_TOKENS)
    wrong = [
        one
        for one, text in zip(drawn, said, strict=True)
        if text and not matches(text, one.example.accepted) and one.wrong in (None, text)
    ]
    if named is None or not wrong:
        yield from (one.example for one in wrong)
        return
    question = catalog().cores["name"]["trained"][0][0]
    asked = [Example(question, one.example.image) for one in wrong]
    names = vlm.generate(vlm.prepare(asked), max_new_tokens=_TOKENS)
    for one, name in zip(wrong, names, strict=True):
        assert one.country is not None
        if matches(name, (one.country.name,)) == named:
            yield one.example


def _best(found: Mapping[str, Sequence[Cause]], value: Callable[[Cause], float]) -> float:
    """The threshold that hits both kinds best, with equal weight; the middle of the best stretch."""
    of = {kind: np.array([value(one) for name, some in found.items() if GROUPS[name][0] == kind for one in some])
          for kind in ("mis-known", "mis-seen")}  # fmt: skip
    tried = np.linspace(0, 1, 201)
    hits = np.array([(of["mis-known"] >= one).mean() + (of["mis-seen"] < one).mean() for one in tried])
    return float(np.median(tried[hits == hits.max()]))
