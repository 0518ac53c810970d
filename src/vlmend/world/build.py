"""Edit benchmarks out of a demo model's own errors, and out of flags that are given another country's name.

A question counts as an error when the answer is wrong on at least two of three renderings of the same scene. Each case
has all probes that the world can tell the answers of (see `vlmend.world.probes`). Training and evaluation share no
scene, no edited country, and no locality question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from vlmend.data.formats import mmedit, plain
from vlmend.data.formats.notes import notes_of
from vlmend.data.records import (
    PUBLISHED,
    EditCase,
    Example,
    Probe,
)
from vlmend.models.pictures import save_picture
from vlmend.models.vlm import VLM
from vlmend.world.candidates import MIS_KNOWN, TASKS, Found, Tried, find
from vlmend.world.probes import probes_of
from vlmend.world.questions import Question

__all__ = ["Tried", "build", "cases_of", "on_disk"]


def cases_of(
    vlm: VLM,
    task: str,
    split: str,
    count: int,
    *,
    seed: int,
    tried: Tried | None = None,
    on_kind: Callable[[str], None] | None = None,
) -> list[EditCase]:
    """Cases with all their probes and with pictures in memory.

    Args:
        vlm: whose answers are edited.
        task: "evqa" (questions) or "eic" (captions) that it gets wrong, "renamed" (flags that it knows, given another
            name), "supposed" (questions of all kinds, given an answer that is not true), or "standing" (such of
            these as can all be in force together).
        split: "train" or "eval".
        count: how many.
        seed: of the scenes that are tried.
        tried: counts what was asked and found.
        on_kind: called with each kind of question before it is looked for.
    """
    name, work = f"{task}_{split}", TASKS[task]
    rng, tally = random.Random(f"{seed}/{name}"), tried or Tried()
    found: list[Found] = []
    for kind, share in work.shares.items():
        if on_kind:
            on_kind(f"{name}: {kind}")
        found += find(vlm, work, kind, max(1, round(share * count)), rng, split, tally)
    rng.shuffle(found)
    found = found[:count]
    away = work.about(split) if work.once else []
    return [
        EditCase(
            id=f"{name}-{index}",
            request=Example(one.candidate.put, one.candidate.pictures[one.rendering], one.candidate.question.answer),
            rejected=one.said,
            probes=probes,
            source=name,
            notes=notes_of(_about(one.candidate.question, made_up=work.counterfactual)),
            counterfactual=work.counterfactual,
        )
        for index, (one, probes) in enumerate(zip(found, probes_of(vlm, found, rng, split, away), strict=True))
    ]


def _about(question: Question, *, made_up: bool) -> dict[str, str]:
    """What is noted of a case: the kind of question, and of the model's errors their kind."""
    about = {"kind": question.kind}
    return about if made_up else about | {"error": "mis-known" if question.kind in MIS_KNOWN else "mis-seen"}


def on_disk(cases: Sequence[EditCase], folder: Path) -> list[EditCase]:
    """The same cases with their pictures as PNG files in a folder, each picture once.

    Raises:
        WriteError: a picture cannot be written.
    """
    return [_saved(case, folder) for case in cases]


def _saved(case: EditCase, folder: Path) -> EditCase:
    paths: dict[int, Path] = {}

    def moved(example: Example, role: str) -> Example:
        image = example.image
        if not isinstance(image, Image.Image):
            return example
        if id(image) not in paths:
            others = sum(path.stem.startswith(f"{_label(case)}{role}") for path in paths.values())
            paths[id(image)] = folder / f"{_label(case)}{role}{others or ''}.png"
            save_picture(image, paths[id(image)])
        return replace(example, image=paths[id(image)])

    request = moved(case.request, "")
    probes: list[Probe] = []
    for probe in case.probes:
        premises = tuple(moved(premise, f"_{probe.kind}") for premise in probe.premises)
        probes.append(replace(probe, example=moved(probe.example, f"_{probe.kind}"), premises=premises))
    return replace(case, request=request, probes=tuple(probes))


def _label(case: EditCase) -> str:
    name, _, index = case.id.rpartition("-")
    return f"{name}_{int(index):04d}"


def build(
    vlm: VLM,
    out: Path,
    *,
    evqa: Mapping[str, int],
    eic: Mapping[str, int],
    renamed: Mapping[str, int] | None = None,
    supposed: Mapping[str, int] | None = None,
    standing: Mapping[str, int] | None = None,
    seed: int,
    on_kind: Callable[[str], None] | None = None,
) -> dict[str, Tried]:
    """Write ``{evqa,eic,renamed,supposed,standing}_{train,eval}`` and their pictures below ``out``.

    ``.jsonl`` has all probes; ``.json`` is MMEdit's format, which has no place for portability and near misses.

    Args:
        vlm: whose answers are edited.
        evqa: how many question cases for each split ("train", "eval"); a split with none is not written.
        eic: how many caption cases.
        renamed: how many cases of flags given another name.
        supposed: how many cases of questions of all kinds given an answer that is not true.
        standing: how many of such cases that can all be in force together.
        seed: of the scenes that are tried.
        on_kind: called with each file and kind of question before it is looked for.

    Returns:
        For each file, how many candidates were asked and how many the model got wrong for good, by kind.
    """
    tried: dict[str, Tried] = {}
    given = {"evqa": evqa, "eic": eic, "renamed": renamed, "supposed": supposed, "standing": standing}
    tasks = {task: sizes or {} for task, sizes in given.items()}
    for task, sizes in tasks.items():
        for split, count in sizes.items():
            if count:
                tally = tried.setdefault(f"{task}_{split}", Tried())
                cases = cases_of(vlm, task, split, count, seed=seed, tried=tally, on_kind=on_kind)
                kept = on_disk(cases, out / "images")
                plain.write(kept, out / f"{task}_{split}.jsonl")
                mmedit.write(list(map(_published, kept)), out / f"{task}_{split}.json")
    return tried


def _published(case: EditCase) -> EditCase:
    """What MMEdit's format has a place for."""
    probes = tuple(replace(probe, premises=()) for probe in case.probes if probe.kind in PUBLISHED)
    return replace(case, probes=probes, notes=(), counterfactual=False)
