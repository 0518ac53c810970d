"""The whole way from one's own questions to a benchmark, record by record, so that it goes on where it was cut short.

    asked      errors for good (`errors.py`)
    reworded   text generality (`rewording.py`)
    pictured   image generality (`pictures.py`); second pictures that the data has are judged alike
    divided    training and evaluation, which share no picture, be it the second of a case (`vlmend.data.splits`)
    dealt      text and image locality out of pools, each side its own part of them (`locality.py`)
    published  what MMEdit's format has a place for, and nothing is missing of, in that format, too (`published.py`)

What asks the same as a record before it is not asked. Everything that is left out is counted by its reason.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmend.build.content import Item, first_of_each
from vlmend.build.errors import Asked, Asking, ask_all
from vlmend.build.locality import apart, dealt, tells
from vlmend.build.pictures import Painter, Scorer, judged
from vlmend.build.published import publishable
from vlmend.build.rewording import REPEATED, Rephraser, flaw, repeated
from vlmend.data.formats import mmedit, plain
from vlmend.data.formats.notes import values_of
from vlmend.data.pictures import relocated
from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    OOD_GENERALITY,
    PORTABILITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
    EditCase,
    Example,
    Probe,
)
from vlmend.data.splits import EDIT, EDIT_PICTURE, PICTURE, Leak, leaks, regroup
from vlmend.errors import VlmendError
from vlmend.evaluation.text import normalised
from vlmend.models.pictures import content_hash, open_picture, save_picture
from vlmend.models.vlm import VLM
from vlmend.runs import Log, Run
from vlmend.words import counted

__all__ = ["CLEAN", "Benchmark", "LeftOut", "Plan", "build"]

CLEAN = (EDIT, EDIT_PICTURE, PICTURE, TEXT_GENERALITY, IMAGE_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY)
"""Roles in which training and evaluation must share nothing."""

_TRIES = 3  # of a rewording, and of a picture
_OTHERS = 7  # captions of other cases that a picture's is held against
_PREMISES = 3  # other questions that a second picture is asked
_DEALT = (TEXT_LOCALITY, IMAGE_LOCALITY)
_CHANGING = (IMAGE_GENERALITY, OOD_GENERALITY, PORTABILITY)  # kinds whose pictures are the case's own matter
_STEPS = ("read", "asked", "reworded", "pictured", "divided", "dealt", "published")


@dataclass(frozen=True)
class Plan:
    """What is built out of which data.

    Attributes:
        asking: how errors are looked for.
        rephraser: makes rewordings; ``None`` for those that the data has.
        painter: makes second pictures; ``None`` for those that the data has.
        caption: the note that holds what a record's picture shows; if ``None``, question and answer stand for it, of
            captions the right one.
        scorer: judges second pictures by their captions; ``None`` for the model's own judgement alone.
        text_pool, image_pool: what locality is dealt out of.
        most: how many errors at most; all if ``None``.
        train: share of cases that are for training.
        seed: of all draws.
    """

    asking: Asking = field(default_factory=Asking)
    rephraser: Rephraser | None = None
    painter: Painter | None = None
    caption: str | None = None
    scorer: Scorer | None = None
    text_pool: Sequence[Example] = ()
    image_pool: Sequence[Example] = ()
    most: int | None = None
    train: float = 0.5
    seed: int = 0

    def check(self, begun: Callable[[str], bool] = lambda step: False) -> None:
        """Find out before the long work whether what rewords, paints and judges can be used.

        Args:
            begun: whether a step has begun already, so that what it uses was tried.

        Raises:
            VlmendError: it cannot.
        """
        for step, tool in (("reworded", self.rephraser), ("pictured", self.painter), ("pictured", self.scorer)):
            if tool is not None and not begun(step):
                tool.check()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What was left out at a step, why, and of which record; ``None`` for what is of a pool."""

    step: str
    why: str
    record: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """What was built.

    Attributes:
        train, evaluation: its cases, with pictures in the folder.
        asked: how many records there were to ask.
        left_out: everything that was, in the order of the steps.
        leaks: what of the evaluation part is in the training part too.
        published: how many cases of each are in MMEdit's format, too.
    """

    train: tuple[EditCase, ...]
    evaluation: tuple[EditCase, ...]
    asked: int
    left_out: tuple[LeftOut, ...]
    leaks: tuple[Leak, ...]
    published: tuple[int, int] = (0, 0)

    @property
    def clean(self) -> bool:
        """Whether nothing leaks in the roles of `CLEAN`."""
        return not any(leak.cases for leak in self.leaks if leak.role in CLEAN)

    @property
    def dropped(self) -> dict[str, dict[str, int]]:
        """Step -> why something was left out there -> how often."""
        counts = {step: Counter(one.why for one in self.left_out if one.step == step) for step in _STEPS}
        return {step: dict(sorted(some.items())) for step, some in counts.items() if some}


def build(
    vlm: VLM, cases: Sequence[EditCase], folder: Path, plan: Plan, run: Run, progress: Callable[[], None]
) -> Benchmark:
    """Build a benchmark below a folder: ``{train,eval}.jsonl``, what of it fits as ``.json`` (MMEdit's format), and
    ``images/``.

    Args:
        vlm: whose errors.
        cases: one's own records; probes that they have are kept.
        folder: where to.
        plan: see there.
        run: where what was finished earlier is found.
        progress: called after every record of every step.

    Raises:
        VlmendError: what rewords, paints or judges cannot be used, the model makes no error for good, two
            records have one id, one lacks the note that was to say what its picture shows, or a rewording or a picture
            cannot be had at all.
        WriteError: something cannot be written.
    """
    if twice := [name for name, count in Counter(case.id for case in cases).items() if count > 1]:
        raise VlmendError(f"two records are called '{twice[0]}': give each an id of its own")
    for case in cases:  # before the long work
        _caption(case, plan)
    plan.check(lambda step: bool(run.part(step=step).records))
    wanted, items, again = first_of_each(cases)
    out = [LeftOut("asked", "a record before it asks the same", name) for name in again]
    asked = ask_all(vlm, wanted, plan.asking, run.part(step="asked"), progress)
    wrong = [_error(case, one) for case, one in zip(wanted, asked, strict=True) if one.why_not is None]
    out += [LeftOut("asked", one.why_not, one.id) for one in asked if one.why_not]
    out += [LeftOut("asked", "there were enough errors", case.id) for case in wrong[plan.most :]] if plan.most else []
    wrong = wrong[: plan.most]
    if not wrong:
        raise VlmendError(
            f"{vlm.name} makes no error for good among {counted(len(cases), 'record')}: give it more of them"
        )
    known = _Known.of(wanted, asked, items)
    made = _reworded(wrong, plan, run.part(step="reworded"), out, progress)
    made = _pictured(vlm, made, known, folder, plan, run.part(step="pictured"), out, progress)
    made = [_own_pictures(case, folder / "images") for case in made]  # named by what they show, and so told apart
    made = [_untold(case, out) for case in made]
    cut = round(len(made) * plan.train)
    split = regroup(made[:cut], made[cut:], seed=plan.seed, together=_CHANGING)
    out += [LeftOut("divided", one.why, one.case) for one in split.dropped]
    sides: tuple[Sequence[EditCase], ...] = tuple(
        [_untold(case, out) for case in side] for side in (split.train, split.evaluation)
    )
    for kind, pool in zip(_DEALT, (plan.text_pool, plan.image_pool), strict=True):
        free, why = apart(pool, made)
        out += [LeftOut("dealt", f"{kind}: {reason}") for reason in why.elements()]
        sides, without = dealt(sides, free, kind, seed=plan.seed)
        out += [LeftOut("dealt", f"{kind}: nothing that is not its answer", name) for name in without]
    train, evaluation = (tuple(_own_pictures(case, folder / "images") for case in side) for side in sides)
    parts = {"train": train, "eval": evaluation}
    for name, part in parts.items():
        if part:
            plain.write(part, folder / f"{name}.jsonl")
    whole = {name: publishable(part, folder / f"{name}.json") for name, part in parts.items()}
    for name, (fitting, without) in whole.items():
        out += [LeftOut("published", why, case) for case, why in without]
        if fitting:
            mmedit.write(fitting, folder / f"{name}.json")
    counts = (len(whole["train"][0]), len(whole["eval"][0]))
    return Benchmark(train, evaluation, len(cases), tuple(out), leaks(train, evaluation), counts)


@dataclass(frozen=True)
class _Known:
    """Questions that the model answers rightly every time, by the pictures that they are about."""

    right: Mapping[tuple[str, ...], Sequence[Example]]
    pictures: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, cases: Sequence[EditCase], asked: Sequence[Asked], items: Sequence[Item]) -> _Known:
        right: dict[tuple[str, ...], list[Example]] = {}
        for case, one, (pictures, _) in zip(cases, asked, items, strict=True):
            if not any(one.wrong):
                right.setdefault(pictures, []).append(case.request)
        return cls(right, {case.id: pictures for case, (pictures, _) in zip(cases, items, strict=True)})

    def about(self, case: EditCase) -> list[Example]:
        """The first few about a case's picture; of several pictures, none."""
        pictures = self.pictures[case.id]
        return list(self.right.get(pictures, ()))[:_PREMISES] if len(pictures) == 1 else []


def _untold(case: EditCase, out: list[LeftOut]) -> EditCase:
    """The case without locality probes, of the data, that are answered by what the edit changes."""
    told = [probe for probe in case.probes if probe.kind in _DEALT and tells(case, probe.example)]
    out += [LeftOut("dealt", f"{probe.kind}: its answer is the case's", case.id) for probe in told]
    return replace(case, probes=tuple(probe for probe in case.probes if probe not in told)) if told else case


def _error(case: EditCase, asked: Asked) -> EditCase:
    return replace(case, rejected=asked.said[0])


def _reworded(
    cases: Sequence[EditCase], plan: Plan, log: Log, out: list[LeftOut], progress: Callable[[], None]
) -> list[EditCase]:
    """The cases with a rewording each, where they have none and one can be had.

    They are reworded in batches that do not depend on where an earlier run was cut short.
    """
    rephraser = plan.rephraser
    if rephraser is None:
        return list(cases)
    known = {record["id"]: record for record in log.records}
    waiting = [case for case in cases if not case.probes_of(TEXT_GENERALITY)]
    for start in range(0, len(waiting), rephraser.at_once):
        batch = waiting[start : start + rephraser.at_once]
        if all(case.id in known for case in batch):
            continue
        for case, (text, why) in zip(batch, _rewordings(rephraser, batch, plan.seed), strict=True):
            if case.id not in known:
                known[case.id] = {"id": case.id, "text": text, "why": why}
                log.append(known[case.id])
                progress()
    texts = {case.id: known[case.id]["text"] for case in waiting}
    said = [(case.request.question, texts[case.id]) for case in waiting if texts[case.id] is not None]
    twice = repeated(said) if rephraser.free else set()
    made: list[EditCase] = []
    for case in cases:
        if case.id in texts:
            out += [LeftOut("reworded", why, case.id) for why in known[case.id]["why"]]
            text = texts[case.id]
            if text is not None and normalised(text) in twice:
                out.append(LeftOut("reworded", REPEATED, case.id))
            elif text is not None:
                probe = Probe(TEXT_GENERALITY, replace(case.request, question=text))
                case = replace(case, probes=(*case.probes, probe))
        made.append(case)
    return made


def _rewordings(rephraser: Rephraser, cases: Sequence[EditCase], seed: int) -> list[tuple[str | None, list[str]]]:
    """Of each case a rewording without a flaw, and the flaws of those before it."""
    rngs = {case.id: random.Random(f"{seed}/{case.id}/words") for case in cases}
    texts: dict[str, str] = {}
    flaws: dict[str, list[str]] = {case.id: [] for case in cases}
    for _ in range(_TRIES):
        left = [case for case in cases if case.id not in texts]
        if not left:
            break
        said = rephraser.reworded([case.request.question for case in left], [rngs[case.id] for case in left])
        for case, text in zip(left, said, strict=True):
            wrong = flaw(case.request, text, free=rephraser.free)
            if wrong is not None:
                flaws[case.id].append(wrong)
            elif text is not None:
                texts[case.id] = text
    return [(texts.get(case.id), flaws[case.id]) for case in cases]


def _pictured(
    vlm: VLM,
    cases: Sequence[EditCase],
    right: _Known,
    folder: Path,
    plan: Plan,
    log: Log,
    out: list[LeftOut],
    progress: Callable[[], None],
) -> list[EditCase]:
    """The cases with second pictures that are recognised: painted, or those that the data has."""
    known = {record["id"]: record for record in log.records}
    captions = [_caption(case, plan) for case in cases]
    made: list[EditCase] = []
    for number, case in enumerate(cases):
        given = case.probes_of(IMAGE_GENERALITY)
        if not given and (plan.painter is None or len(case.request.pictures) > 1):
            out += [] if plan.painter is None else [LeftOut("pictured", "none is painted for several", case.id)]
            made.append(case)
            continue
        about = right.about(case)
        if case.id not in known:
            others = random.Random(f"{plan.seed}/{case.id}/captions").sample(
                [one for one in dict.fromkeys(captions) if one != captions[number]],
                min(_OTHERS, len(set(captions)) - 1),
            )
            judge = _Judge(vlm, case, plan, about, [captions[number], *others])
            kept, why = _judged_given(judge, given) if given else _painted(judge, folder, captions[number])
            known[case.id] = {"id": case.id, "kept": kept, "why": why}
            log.append(known[case.id])
            progress()
        record = known[case.id]
        out += [LeftOut("pictured", why, case.id) for why in record["why"]]
        rest = tuple(probe for probe in case.probes if probe.kind != IMAGE_GENERALITY)
        if given:
            shown = tuple(replace(given[at], premises=_premises(given[at], about)) for at in record["kept"])
        else:
            bare = [Probe(IMAGE_GENERALITY, replace(case.request, image=folder / name)) for name in record["kept"]]
            shown = tuple(replace(probe, premises=_premises(probe, about)) for probe in bare)
        made.append(replace(case, probes=(*(p for p in rest if p.kind == TEXT_GENERALITY), *shown,
                                          *(p for p in rest if p.kind != TEXT_GENERALITY))))  # fmt: skip
    return made


def _premises(probe: Probe, about: Sequence[Example]) -> tuple[Example, ...]:
    """What a right answer about a second picture rests on: what the data says, else other questions, asked of it."""
    return probe.premises or tuple(replace(one, image=probe.example.image) for one in about)


@dataclass(frozen=True)
class _Judge:
    """Says what is wrong with a second picture of a case."""

    vlm: VLM
    case: EditCase
    plan: Plan
    about: Sequence[Example]
    captions: Sequence[str]

    def flaw(self, second: Example, premises: Sequence[Example]) -> str | None:
        scorer, asking = self.plan.scorer, self.plan.asking
        if not second.pictures:
            return "there is none"
        if scorer is not None and scorer.likeliest(open_picture(second.pictures[0]), self.captions) != 0:
            return "another caption is likelier"
        return judged(self.vlm, self.case, second, premises, asking.right, max_new_tokens=asking.max_new_tokens)


def _judged_given(judge: _Judge, given: Sequence[Probe]) -> tuple[list[Any], list[str]]:
    flaws = [judge.flaw(one.example, _premises(one, judge.about)) for one in given]
    return [at for at, wrong in enumerate(flaws) if wrong is None], [wrong for wrong in flaws if wrong]


def _painted(judge: _Judge, folder: Path, caption: str) -> tuple[list[Any], list[str]]:
    """The first picture without a flaw, as a file, and the flaws of those before it."""
    plan = judge.plan
    assert plan.painter is not None
    rng = random.Random(f"{plan.seed}/{judge.case.id}/picture")
    flaws: list[str] = []
    for _ in range(_TRIES):
        picture = plan.painter.painted(caption, rng.getrandbits(31))
        wrong = judge.flaw(replace(judge.case.request, image=picture), judge.about)
        if wrong is None:
            name = f"images/{content_hash(picture)}.png"
            save_picture(picture, folder / name)
            return [name], flaws
        flaws.append(wrong)
    return [], flaws


def _caption(case: EditCase, plan: Plan) -> str:
    """What a case's picture shows, in words.

    Raises:
        VlmendError: there is no such note.
    """
    if plan.caption is None:
        return plan.asking.right.shown(case.request)
    said = str(values_of(case.notes).get(plan.caption) or "")
    if not said.strip():
        raise VlmendError(f"case '{case.id}' has no note '{plan.caption}', which was to say what its picture shows")
    return said


def _own_pictures(case: EditCase, folder: Path) -> EditCase:
    """The case with its pictures in the folder, named by what they show."""

    def placed(file: Path) -> Path:
        if file.parent == folder:
            return file
        picture = open_picture(file)
        place = folder / f"{content_hash(picture)}.png"
        return place if place.exists() else save_picture(picture, place)

    return relocated(case, placed)
