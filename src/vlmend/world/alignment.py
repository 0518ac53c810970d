"""What training on pairs does to a demo model: arms that differ in one thing, several seeds, scenes of no training.

The pairs come of natural scenes, in which what is expected is mostly there. Measured is on scenes that go against that:
how often a companion is named that is expected and absent (the primary measure), and beside it what may have been paid:
how much of what is there is named, in how many words, and how many questions are answered right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmend.alignment.recipes import objective
from vlmend.alignment.train import Alignment, align
from vlmend.data.questions import Answer, YesNoQuestion
from vlmend.data.records import Example, PreferencePair
from vlmend.errors import VlmendError
from vlmend.evaluation.decoding import DECODINGS
from vlmend.evaluation.hallucination.pope import pope
from vlmend.evaluation.stats import Estimate, bootstrap, estimate, paired
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.runs import Log
from vlmend.world.captions import mentions
from vlmend.world.catalog import catalog
from vlmend.world.exam.asking import picture
from vlmend.world.exam.describing import draw_described
from vlmend.world.exam.scenes import SCENE_KINDS, ask_scenes
from vlmend.world.scene import Scene
from vlmend.world.suites import exist_questions

__all__ = ["ARMS", "Arm", "Asked", "Findings", "answers_of", "arm_of", "found", "lead", "study"]

SEED = 8_000_001  # of no training, no pairs and no examination


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        objective: what is minimised; empty for the model as it is.
        origin: of the pairs that are trained on; empty for all.
        decoding: how it answers.
    """

    objective: str = ""
    origin: str = ""
    decoding: str = "greedy"

    def seeds(self, seeds: Sequence[int]) -> Sequence[int]:
        """Those that make a difference."""
        return seeds if self.objective else seeds[:1]


ARMS: Mapping[str, Arm] = {
    "base": Arm(),
    "sft": Arm("sft"),
    "bpo": Arm("bpo"),
    "bpo weakened": Arm("bpo", "weakened"),
    "bpo injected": Arm("bpo", "injected"),
    "bpo + sft": Arm("bpo + sft"),
    "mdpo": Arm("mdpo"),
    "vcd": Arm(decoding="vcd"),
}
"""Name -> arm. "sft" learns the same good answers; "base" is the model as it is, and "vcd" too, decoded by contrast."""


def arm_of(name: str) -> Arm:
    """An arm by its name, or by what is to be minimised, on all pairs.

    Raises:
        UnknownNameError: it is neither the name of an arm nor an objective of known names.
        VlmendError: it is not understood.
    """
    return ARMS[name] if name in ARMS else Arm(str(objective(name)))


@dataclass(frozen=True)
class Asked:
    """What is asked of every arm.

    Attributes:
        scenes: by section ("counter", "natural"), those that are described.
        examples: by section, and by kind of question.
        exist: POPE's questions in the adversarial setting, as the section "pope" asks them.
    """

    scenes: Mapping[str, Sequence[Scene]]
    examples: Mapping[str, Sequence[Example]]
    exist: Sequence[YesNoQuestion]

    @classmethod
    def drawn(cls, n: int, seed: int = SEED) -> Asked:
        """``n`` scenes against the prior and as many natural ones, POPE's questions on those of them in which a
        companion is expected and absent, and ``n // 2`` questions of every kind."""
        rng = random.Random(f"{seed}/alignment")
        prompt = catalog().cores["short_caption"]["trained"][0][0]
        scenes = {mode: draw_described(mode, n, rng) for mode in ("counter", "natural")}
        drawn = {mode: [(scene, picture(scene, rng)) for scene in some] for mode, some in scenes.items()}
        examples = {mode: [Example(prompt, shown) for _, shown in some] for mode, some in drawn.items()}
        exist, examples["pope"] = exist_questions([*drawn["counter"], *drawn["natural"]], rng, ("adversarial",))
        examples |= {kind: ask_scenes(kind, n // 2, rng) for kind in SCENE_KINDS}
        return cls(scenes, examples, exist)


def answers_of(vlm: VLM, asked: Asked, way: str = "greedy") -> dict[str, list[str]]:
    """What the model says now, by section, decoded in a way of `DECODINGS`."""
    decoded = DECODINGS[way]()
    return {
        name: [reply.text for reply in decoded.replies(vlm, some, max_new_tokens=60 if name in asked.scenes else 16)]
        for name, some in asked.examples.items()
    }


@dataclass(frozen=True)
class Findings:
    """What one arm is like, over all its seeds; intervals are over scenes.

    Attributes:
        companion: share of expected and absent companions that are named, on scenes against the prior.
        companion_less: the same less that of another arm, by its name; paired by scene, over all seeds of both.
        by_seed: the first, seed by seed.
        coverage: share of the objects there that are named, on the same.
        words, words_natural: in a description of the same, and of natural scenes.
        chair_i, chair_i_natural, chair_i_total: share of named objects that are not there, against the prior, on
            natural scenes, and on all of these.
        coverage_natural: as ``coverage``, on natural scenes.
        pope_f1: POPE's, adversarial.
        questions: share answered right, by kind; "all" is all of them.
    """

    companion: Estimate
    by_seed: Sequence[float]
    coverage: Estimate
    words: Estimate
    words_natural: Estimate
    chair_i: Estimate
    chair_i_natural: Estimate
    chair_i_total: Estimate
    coverage_natural: Estimate
    pope_f1: Estimate
    questions: Mapping[str, Estimate]
    companion_less: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])


def found(asked: Asked, said: Sequence[Mapping[str, Sequence[str]]]) -> Findings:
    """Score one arm's answers, those of every seed."""
    described = {mode: _Described.of(scenes, [one[mode] for one in said]) for mode, scenes in asked.scenes.items()}
    counter, natural = described["counter"], described["natural"]
    questions: list[YesNoQuestion] = []
    answers: list[Answer] = []
    for one in said:
        for question, text in zip(asked.exist, one["pope"], strict=True):
            questions.append(replace(question, id=len(questions)))
            answers.append(Answer(questions[-1].id, text))
    marks = {
        kind: [
            (place, float(matches(text, example.accepted)))
            for one in said
            for place, (example, text) in enumerate(zip(asked.examples[kind], one[kind], strict=True))
        ]
        for kind in SCENE_KINDS
    }
    right = {kind: estimate([mark for _, mark in some], [place for place, _ in some]) for kind, some in marks.items()}
    every = [((kind, place), mark) for kind, some in marks.items() for place, mark in some]
    right["all"] = estimate([mark for _, mark in every], [place for place, _ in every])
    return Findings(
        companion=_share(counter.companions),
        by_seed=[_share(_Described.of(asked.scenes["counter"], [one["counter"]]).companions).mean for one in said],
        coverage=_share(counter.covered),
        words=_mean(counter.words),
        words_natural=_mean(natural.words),
        chair_i=_share(counter.invented),
        chair_i_natural=_share(natural.invented),
        chair_i_total=_share([((mode, at), made) for mode, one in described.items() for at, made in one.invented]),
        coverage_natural=_share(natural.covered),
        pope_f1=pope(questions, answers).scores.f1,
        questions=right,
    )


@dataclass(frozen=True)
class _Described:
    """Of descriptions, each as (place of its scene, what is the case): companions, mentions, objects there, words."""

    companions: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    invented: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    covered: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    words: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @classmethod
    def of(cls, scenes: Sequence[Scene], said: Sequence[Sequence[str]]) -> _Described:
        made = cls()
        for texts in said:
            for place, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
                named = set(mentions(text))
                made.companions.extend((place, kind in named) for kind in scene.expected)
                made.invented.extend((place, kind not in scene.counts) for kind in mentions(text))
                made.covered.extend((place, kind in named) for kind in scene.counts)
                made.words.append((place, len(text.split())))
        return made


def _share(hits: Sequence[tuple[Hashable, bool]]) -> Estimate:
    return estimate([float(hit) for _, hit in hits], [place for place, _ in hits])


def _mean(counts: Sequence[tuple[Hashable, int]]) -> Estimate:
    return bootstrap([float(count) for _, count in counts], [place for place, _ in counts])


def lead(
    asked: Asked, said: Sequence[Mapping[str, Sequence[str]]], other: Sequence[Mapping[str, Sequence[str]]]
) -> Estimate:
    """How much more often companions are named in some answers than in others; of each the mean over seeds, paired by
    companion, the interval over scenes."""
    places: list[int] = []
    shares: list[list[float]] = []
    for some in (said, other):
        each = [_Described.of(asked.scenes["counter"], [one["counter"]]).companions for one in some]
        places = [place for place, _ in each[0]]
        shares.append([sum(hit for _, hit in hits) / len(each) for hits in zip(*each, strict=True)])
    return paired([mine - theirs for mine, theirs in zip(*shares, strict=True)], places)


def study(
    vlm: VLM,
    pairs: Sequence[PreferencePair],
    arms: Sequence[str],
    seeds: Sequence[int],
    asked: Asked,
    folder: Path,
    log: Log,
    method: Alignment | None = None,
    *,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Findings]:
    """Train every arm with every seed, ask, and score; those that the log has are not trained again.

    Args:
        vlm: the model; left as it was.
        pairs: what is trained on.
        arms: as of `arm_of`.
        seeds: of the trainings; the model as it is answers once.
        asked: what is asked of all.
        folder: where each training has its own.
        log: gets a record of every training's answers.
        method: how, but for objective and seed.
        progress: called after each arm and seed.

    Raises:
        VlmendError: an arm has no pairs.
    """
    method = method or Alignment()
    said = {(record["arm"], record["seed"]): record["answers"] for record in log.records}
    for name in arms:
        arm = arm_of(name)
        mine = [pair for pair in pairs if not arm.origin or arm.origin == pair.origin]
        if arm.objective and not mine:
            raise VlmendError(f"arm '{name}' is trained on pairs of origin '{arm.origin}', and there are none")
        for seed in arm.seeds(seeds):
            if (name, seed) in said:
                continue
            edit = None
            if arm.objective:
                adapter: Any = replace(method.adapter, seed=seed)  # type: ignore[type-var]
                how = replace(method, objective=arm.objective, seed=seed, adapter=adapter)
                edit = align(vlm, mine, folder / f"{_slug(name)}-{seed}", how)
            with vlm.using(edit):
                said[name, seed] = answers_of(vlm, asked, arm.decoding)
            log.append({"arm": name, "seed": seed, "answers": said[name, seed]})
            progress()
    answers = {name: [said[name, seed] for seed in arm_of(name).seeds(seeds)] for name in arms}
    return {
        name: replace(
            found(asked, mine),
            companion_less={other: lead(asked, mine, theirs) for other, theirs in answers.items() if other != name},
        )
        for name, mine in answers.items()
    }


def _slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^a-z0-9.=]+", "-", name.lower()).strip("-")
