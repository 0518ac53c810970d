"""Preference pairs out of good answers: worse ones are made, checked, and what is dropped is counted by its reason.

A worse answer is kept if something in it that can be checked differs from the good one, it is about as long, and the
model itself might say it. Whatever is made of a record depends on the record, the settings and the seed alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from vlmend.alignment.checkable import Checkable
from vlmend.alignment.collate import unsayable
from vlmend.alignment.inject import Injector
from vlmend.alignment.logprobs import target_log_probs
from vlmend.alignment.spans import differing
from vlmend.alignment.weaken import Weakening, seed_of, weakened
from vlmend.data.formats.notes import notes_of
from vlmend.data.records import EditCase, Example, PreferencePair
from vlmend.errors import PromptError
from vlmend.models.chat import Said
from vlmend.models.contrast import Contrast
from vlmend.models.outputs import RowOutput
from vlmend.models.sampling import Draws
from vlmend.models.vlm import VLM
from vlmend.ranks import ALONE, Ranks
from vlmend.runs import Log

__all__ = [
    "UNREADABLE",
    "Check",
    "Injecting",
    "Made",
    "Way",
    "Weakened",
    "made_pairs",
    "make",
    "mean_log_prob",
    "positives",
    "reasons",
]

NO_ANSWER = "no good answer"
NO_PICTURE = "no picture"
UNREADABLE = "the model cannot be asked it"
UNSAYABLE = "the model cannot be given it"
EMPTY = "empty"
SAME = "the same words"
NOTHING_CHECKABLE = "nothing that can be checked differs"
SHORT, LONG = "too short", "too long"
UNLIKELY = "the model would hardly say it"


@dataclass(frozen=True)
class Check:
    """What a worse answer must be like.

    Attributes:
        checkable: in which something must differ; ``None`` to let any difference do.
        ratio: its length in words over that of the good answer, least and most.
        least: its mean log-probability a token under the model with the clean picture, in nats.
    """

    checkable: Checkable | None
    ratio: tuple[float, float] = (0.8, 1.25)
    least: float = -math.inf

    def flaw(self, chosen: str, rejected: str) -> str | None:
        """What is wrong with it, as far as words tell; ``None`` if nothing is."""
        words = [text.lower().split() for text in (chosen, rejected)]
        if not words[1]:
            return EMPTY
        if words[0] == words[1]:
            return SAME
        if self.checkable is not None and not self.checkable.changed(chosen, rejected):
            return NOTHING_CHECKABLE
        share = len(words[1]) / len(words[0])
        return SHORT if share < self.ratio[0] else LONG if share > self.ratio[1] else None


@dataclass(frozen=True)
class Proposal:
    """A worse answer that is not checked yet, or why there is none, and what else is known of it."""

    said: Said
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Way(Protocol):
    """A way to worse answers."""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        ...

    @property
    def origin(self) -> str:
        """What pairs made so are called."""
        ...

    @property
    def check(self) -> Check:
        """What answers must be like."""
        ...

    @property
    def tries(self) -> int:
        """How often an answer is made again that is not like that."""
        ...

    @property
    def at_once(self) -> int:
        """How many records are done together."""
        ...

    def propose(self, cases: Sequence[EditCase], attempt: int) -> list[Proposal]:
        """A worse answer to each, other ones at every attempt.

        Raises:
            VlmendError: none can be had now.
        """
        ...


@dataclass(frozen=True)
class Weakened:
    """Answers given to weakened pictures.

    Attributes:
        vlm: whose.
        how: how pictures are weakened.
        check, tries: as of `Way`.
        temperature: of the draws; 0 for the likeliest answer, which other tries give to other noise.
        contrast: answers are said by (1 + this) log-likelihoods with noise - this times those without; 0 for none.
        max_new_tokens: longest answer.
        at_once: how many records are done together.
    """

    vlm: VLM
    how: Weakening
    check: Check
    tries: int = 3
    temperature: float = 0.2
    contrast: float = 0.0
    max_new_tokens: int = 256
    at_once: int = 32

    name = "weaken"
    origin = "weakened"

    def propose(self, cases: Sequence[EditCase], attempt: int) -> list[Proposal]:
        """What the model says of each record's picture in this attempt's noise."""
        names = [f"{case.id}/{attempt}" for case in cases]
        asked = [case.request for case in cases]
        prepared, noise = weakened(self.vlm, asked, names, self.how)
        against = Contrast(self.vlm.prepare(asked), self.contrast) if self.contrast else None
        seeds = tuple(seed_of(self.how.seed, f"{name}/answer") for name in names)
        sampling = Draws(seeds, self.temperature) if self.temperature else None
        said = self.vlm.replies(prepared, max_new_tokens=self.max_new_tokens, sampling=sampling, against=against)
        return [
            Proposal(Said(one.text), _noise_notes(what.step, what.snr, what.kl))
            for one, what in zip(said, noise, strict=True)
        ]


def _noise_notes(step: int, snr: float, kl: float | None) -> dict[str, Any]:
    notes: dict[str, Any] = {"step": step}
    notes |= {"snr_db": round(snr, 2)} if step else {}
    return notes | ({} if kl is None else {"kl": float(f"{kl:.4g}")})


@dataclass(frozen=True)
class Injecting:
    """Good answers with an error written into them.

    Attributes:
        injector: what writes it.
        check, tries: as of `Way`.
        seed: of the draws; every record's own is made of this and its id.
    """

    injector: Injector
    check: Check
    tries: int = 3
    seed: int = 0

    name = "inject"
    origin = "injected"

    @property
    def at_once(self) -> int:
        return self.injector.at_once

    def propose(self, cases: Sequence[EditCase], attempt: int) -> list[Proposal]:
        """What the injector makes of each."""
        seeds = [seed_of(self.seed, f"{case.id}/{attempt}") for case in cases]
        return [Proposal(said) for said in self.injector.worse([case.request for case in cases], seeds)]


@dataclass(frozen=True)
class Made:
    """What became of one record in one way.

    Attributes:
        id: the record's.
        way: the way's name.
        rejected: the worse answer; ``None`` if the record is dropped.
        why: what was wrong with each try that was not kept, or with the record.
        detail: what else there is to say of why.
        notes: of the answer that was kept.
    """

    id: str
    way: str
    rejected: str | None
    why: tuple[str, ...] = ()
    detail: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Made:
        """From a run folder's record."""
        return cls(
            record["id"], record["way"], record["rejected"], tuple(record["why"]), record["detail"], record["notes"]
        )

    def record(self) -> dict[str, Any]:
        """For a run folder."""
        return {
            "id": self.id,
            "way": self.way,
            "rejected": self.rejected,
            "why": list(self.why),
            "detail": self.detail,
            "notes": dict(self.notes),
        }


def positives(pairs: Sequence[PreferencePair]) -> list[EditCase]:
    """The good answers of pairs, each once: what other worse answers can be made for."""
    first: dict[tuple[Any, ...], EditCase] = {}
    for pair in pairs:
        key = (pair.question, pair.chosen, *(one if isinstance(one, Path) else id(one) for one in pair.pictures))
        first.setdefault(key, EditCase(pair.id, Example(pair.question, pair.image, pair.chosen)))
    return list(first.values())


def make(
    vlm: VLM,
    cases: Sequence[EditCase],
    ways: Sequence[Way],
    log: Log,
    progress: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> None:
    """Make worse answers for this process's share of the records; what the log has is not made again.

    Records are done in batches that do not depend on where an earlier run was cut short.

    Args:
        vlm: whose likelihoods are looked at.
        cases: pictures with questions and good answers; ids are unique.
        ways: each makes one answer a record.
        log: gets a `Made` for each record and way.
        progress: called after each.
        ranks: the processes that share the records.

    Raises:
        VlmendError: no answers can be had now; the log keeps what is made.
    """
    done = {(record["way"], record["id"]) for record in log.records}
    mine = list(ranks.share(cases))
    for way in ways:
        for start in range(0, len(mine), way.at_once):
            batch = mine[start : start + way.at_once]
            missing = {case.id for case in batch if (way.name, case.id) not in done}
            if missing:
                for made in _made(vlm, batch, way):
                    if made.id in missing:
                        log.append(made.record())
                        progress()


def made_pairs(
    cases: Sequence[EditCase], ways: Sequence[Way], records: Sequence[Mapping[str, Any]]
) -> tuple[list[PreferencePair], list[Made]]:
    """The pairs of a run's records in the order of the data and of the ways, and what was dropped."""
    known = {(record["way"], record["id"]): Made.restored(record) for record in records}
    found = [(case, way, known[way.name, case.id]) for case in cases for way in ways]
    dropped = [made for _, _, made in found if made.rejected is None]
    return [_pair(case, way, made) for case, way, made in found if made.rejected is not None], dropped


def _pair(case: EditCase, way: Way, made: Made) -> PreferencePair:
    chosen, rejected = (case.request.answer or "").strip(), made.rejected or ""
    spans = differing(chosen, rejected)
    own = tuple(note for note in case.notes if note[0] not in made.notes)
    return PreferencePair(
        f"{case.id}/{way.name}",
        case.request.question,
        chosen,
        rejected,
        case.request.image,
        *spans,
        way.origin,
        (*own, *notes_of(made.notes)),
    )


def _made(vlm: VLM, batch: Sequence[EditCase], way: Way) -> list[Made]:
    """What becomes of some records, in their order."""
    with vlm.sharing():  # pictures are processed once for all that is done here
        wrong = {case.id: problem for case in batch if (problem := _unusable(vlm, case))}
        rest = [case for case in batch if case.id not in wrong]
        found: dict[str, Made] = {
            name: Made(name, way.name, None, (why,), detail) for name, (why, detail) in wrong.items()
        }
        flaws: dict[str, list[str]] = {case.id: [] for case in rest}
        good = dict(zip((case.id for case in rest), mean_log_prob(vlm, [case.request for case in rest]), strict=True))
        for attempt in range(way.tries):
            kept = dict(_checked(vlm, rest, way, attempt, flaws))
            for case in rest:
                if case.id in kept:
                    text, notes = kept[case.id]
                    likely = [round(value, 4) for value in (good[case.id], notes.pop("log_prob"))]
                    notes = {**notes, "log_probs": likely}
                    found[case.id] = Made(case.id, way.name, text, tuple(flaws[case.id]), notes=notes)
            rest = [case for case in rest if case.id not in kept]
            if not rest:
                break
        found |= {case.id: Made(case.id, way.name, None, tuple(flaws[case.id])) for case in rest}
    return [found[case.id] for case in batch]


def _unusable(vlm: VLM, case: EditCase) -> tuple[str, str] | None:
    """Why nothing can be made of a record."""
    if not (case.request.answer or "").strip():
        return NO_ANSWER, ""
    if not case.request.pictures:
        return NO_PICTURE, ""
    why = _unreadable(vlm, case.request)
    return None if why is None else (UNREADABLE, why)


def _unreadable(vlm: VLM, example: Example) -> str | None:
    """Why the model cannot read a question with an answer."""
    try:
        (row,) = vlm.prepare([example]).rows
    except PromptError as error:
        return " ".join(str(error).split())[:200]
    if (problem := unsayable(vlm, row)) is not None:
        return f"the answer {problem}"
    count = len(row.ids_T) + len(row.target_N)
    if vlm.longest is not None and count > vlm.longest:
        return f"it has {count} tokens, and the model is made for {vlm.longest}"
    return None


def _checked(
    vlm: VLM, cases: Sequence[EditCase], way: Way, attempt: int, flaws: Mapping[str, list[str]]
) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """Of one attempt what is kept: (id, (worse answer, notes)); the others' flaws are noted."""
    fitting: list[tuple[EditCase, str, Mapping[str, Any]]] = []
    for case, one in zip(cases, way.propose(cases, attempt), strict=True):
        text = one.said.text
        problem = one.said.problem if text is None else way.check.flaw(case.request.answer or "", text)
        if text is None or problem is not None:
            flaws[case.id].append(problem or EMPTY)
        elif _unreadable(vlm, replace(case.request, answer=text)) is not None:
            flaws[case.id].append(UNSAYABLE)
        else:
            fitting.append((case, text, one.notes))
    likely = mean_log_prob(vlm, [replace(case.request, answer=text) for case, text, _ in fitting])
    for (case, text, notes), value in zip(fitting, likely, strict=True):
        if not value >= way.check.least:
            flaws[case.id].append(UNLIKELY)
        else:
            differ = list(way.check.checkable.changed(case.request.answer or "", text)) if way.check.checkable else []
            yield case.id, (text, {**notes, "differ": differ, "log_prob": value})


def mean_log_prob(vlm: VLM, examples: Sequence[Example]) -> list[float]:
    """Mean log-probability a token of each example's answer, in nats."""
    return [_mean(row) for row in vlm.run(vlm.prepare(examples)).rows] if examples else []


def _mean(row: RowOutput) -> float:
    count = row.answer_length
    return float(target_log_probs(row.logits_NV[:count], row.target_N[:count]).mean())


def reasons(records: Sequence[Made]) -> dict[str, int]:
    """Why records were dropped, by the last thing that was wrong -> how often."""
    return dict(Counter(made.why[-1] for made in records if made.rejected is None and made.why).most_common())
