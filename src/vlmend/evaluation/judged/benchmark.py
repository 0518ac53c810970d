"""The engine of judged benchmarks: requests, ratings out of replies, and scores with intervals.

A benchmark is a value: its questions' reader is in ``data/formats``, its prompt, its ways of reading a reply and its
measures are here. Every measure is a ratio of sums over answers, so that one bootstrap over pictures serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlmend.data.questions import Answer, Key, OpenQuestion
from vlmend.endpoints import Completion
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.evaluation.hallucination.answering import answered
from vlmend.evaluation.hallucination.rates import words_in
from vlmend.evaluation.judged.judge import Judge, Missing, Told
from vlmend.evaluation.judged.prompts import Prompt
from vlmend.evaluation.judged.replies import Request
from vlmend.evaluation.proof import without_nan
from vlmend.evaluation.stats import Estimate, estimate, ratio

__all__ = [
    "Benchmark",
    "Failure",
    "JudgeProtocol",
    "JudgedBy",
    "JudgedRecord",
    "JudgedResult",
    "Measure",
    "judged",
    "result_of",
]


@dataclass(frozen=True)
class JudgeProtocol:
    """A way of reading replies.

    Attributes:
        name, version: what its numbers go by; the version changes whenever a number might.
        ratings: all ratings that a reply has.
        otherwise: the ratings of an answer whose reply has too few or too many, where the published code makes some up;
            ``None``: such an answer has none, and counts as failed.
        about: what it does with such a reply, in a sentence.
    """

    name: str
    version: str
    ratings: Callable[[str], Sequence[float]]
    otherwise: tuple[float, ...] | None
    about: str


@dataclass(frozen=True, slots=True)
class JudgedRecord:
    """One answer, what the judge replied each time it was asked, and the ratings that were read out of that."""

    id: Key
    image: str
    kinds: tuple[str, ...]
    text: str
    words: int
    replies: tuple[str, ...]
    ratings: tuple[tuple[float, ...], ...]

    @property
    def picture(self) -> Key:
        """What it is resampled with."""
        return self.image or self.id

    def mean(self, value: Callable[[Sequence[float]], float]) -> float:
        """A value of its ratings, averaged over the times that it was rated."""
        return sum(map(value, self.ratings)) / len(self.ratings)


@dataclass(frozen=True)
class Measure:
    """A ratio of sums over answers.

    Attributes:
        above: of an answer that was rated.
        below: what it is divided by.
        unit: empty for a share, which is shown in per cent.
    """

    above: Callable[[JudgedRecord], float]
    below: Callable[[JudgedRecord], float] = lambda one: 1.0
    unit: str = ""

    def of(self, records: Sequence[JudgedRecord]) -> tuple[list[float], list[float]]:
        """Both, for every answer."""
        return [self.above(one) for one in records], [self.below(one) for one in records]

    def estimate(self, records: Sequence[JudgedRecord]) -> Estimate:
        """Over answers that were rated, with its 95 % interval by the bootstrap over pictures."""
        above, below = self.of(records)
        pictures = [one.picture for one in records]
        plain = all(one == 1.0 for one in below)
        return estimate(above, pictures) if plain else ratio(above, below, pictures)


WORDS = Measure(lambda one: float(one.words), unit="words")


@dataclass(frozen=True)
class Benchmark:
    """A judged benchmark.

    Attributes:
        name: what it is asked for by.
        prompt: what the judge is told: ours.
        own_prompt: reads another one out of the user's copy of a published file.
        protocols: name -> way of reading replies; the first is the default.
        count: ratings that a reply must have.
        measures: name -> what is reported, the benchmark's own score first.
        temperature, max_tokens: of the published requests.
        shown: a question as the judge is shown it.
    """

    name: str
    prompt: Prompt
    own_prompt: Callable[[Path], Prompt]
    protocols: Mapping[str, JudgeProtocol]
    count: int
    measures: Mapping[str, Measure]
    temperature: float
    max_tokens: int
    shown: Callable[[OpenQuestion], OpenQuestion] = lambda question: question

    def protocol(self, name: str | None = None) -> JudgeProtocol:
        """A protocol by its name; the default without one.

        Raises:
            UnknownNameError: there is none of that name.
        """
        wanted = next(iter(self.protocols)) if name is None else name
        if wanted not in self.protocols:
            raise UnknownNameError(f"{self.name} protocol", wanted, self.protocols)
        return self.protocols[wanted]


@dataclass(frozen=True, slots=True)
class JudgedBy:
    """The instrument: the model that was asked for, those that the endpoint says replied, and how they were asked."""

    model: str
    served: tuple[str, ...]
    temperature: float
    max_tokens: int
    runs: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that was not rated, the time it was asked about, and why not."""

    id: Key
    run: int
    why: str


@dataclass(frozen=True)
class JudgedResult:
    """A judged benchmark of some answers; ``nan`` where there is nothing to count.

    Attributes:
        benchmark, protocol, version, prompt, judge: how it was measured; results that differ in one are not compared.
        unreadable: the protocol's word on replies without a rating, or with several.
        n, rated: answers, and those with a rating; scores are of the latter.
        failed: every rating that could not be had.
        scores: measure -> estimate, the benchmark's own first, the answers' length last.
        kinds: capability, category or type -> the same; an answer counts in each of its own.
        combinations: the same for just these together, where answers have several.
        records: every answer.
    """

    benchmark: str
    protocol: str
    version: str
    prompt: str
    judge: JudgedBy
    unreadable: str
    n: int
    rated: int
    failed: tuple[Failure, ...]
    scores: Mapping[str, Estimate]
    kinds: Mapping[str, Mapping[str, Estimate]]
    combinations: Mapping[str, Mapping[str, Estimate]]
    units: Mapping[str, str] = field(repr=False)
    records: tuple[JudgedRecord, ...] = field(repr=False)

    @property
    def rates(self) -> Mapping[str, Estimate]:
        """Name -> estimate, the answers' length among them."""
        return self.scores

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a mean of nothing is null."""
        return without_nan(asdict(self))


def judged(
    benchmark: Benchmark,
    questions: Sequence[OpenQuestion],
    answers: Iterable[Answer],
    judge: Judge,
    *,
    protocol: str | None = None,
    prompt: Prompt | None = None,
) -> JudgedResult:
    """Have answers judged.

    Args:
        benchmark: what is measured.
        questions: of its files.
        answers: one to each.
        judge: who is asked.
        protocol: how replies are read.
        prompt: what the judge is told, instead of the benchmark's own text.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: questions and answers do not belong together one by one, or not one answer could be judged.
        WriteError: a reply cannot be recorded.
    """
    way, text = benchmark.protocol(protocol), prompt or benchmark.prompt
    said = answered([one.id for one in questions], answers)
    requests = [
        judge.request(
            text.messages(benchmark.shown(one), said[one.id]),
            temperature=benchmark.temperature,
            max_tokens=benchmark.max_tokens,
            run=run,
        )
        for one in questions
        for run in range(judge.runs)
    ]
    told = judge.told(requests, lambda reply: _rated(reply, way, benchmark.count) is not None)
    records: list[JudgedRecord] = []
    failed: list[Failure] = []
    for place, one in enumerate(questions):
        mine = told[place * judge.runs : (place + 1) * judge.runs]
        found = [_ratings(reply, way, benchmark.count) for reply in mine]
        failed += [Failure(one.id, run, why.why) for run, why in enumerate(found) if isinstance(why, Missing)]
        records.append(
            JudgedRecord(
                id=one.id,
                image=one.image,
                kinds=one.kinds,
                text=said[one.id],
                words=words_in(said[one.id]),
                replies=tuple(reply.text for reply in mine if isinstance(reply, Completion)),
                ratings=tuple(rating for rating in found if not isinstance(rating, Missing)),
            )
        )
    if records and not any(one.ratings for one in records):
        raise VlmendError(f"{benchmark.name}: not one answer could be judged: {failed[0].why}")
    return result_of(benchmark, way, text.id, _judged_by(judge, requests, told), records, failed)


def result_of(
    benchmark: Benchmark,
    protocol: JudgeProtocol,
    prompt: str,
    judge: JudgedBy,
    records: Sequence[JudgedRecord],
    failed: Sequence[Failure],
) -> JudgedResult:
    """The scores of answers whose ratings are known."""
    rated = [one for one in records if one.ratings]
    kinds = dict.fromkeys(kind for one in records for kind in one.kinds)
    sets = dict.fromkeys(tuple(sorted(one.kinds)) for one in records)
    several = any(len(one) > 1 for one in sets)
    return JudgedResult(
        benchmark=benchmark.name,
        protocol=protocol.name,
        version=protocol.version,
        prompt=prompt,
        judge=judge,
        unreadable=protocol.about,
        n=len(records),
        rated=len(rated),
        failed=tuple(failed),
        scores=_scores(benchmark, rated),
        kinds={kind: _scores(benchmark, [one for one in rated if kind in one.kinds]) for kind in kinds},
        combinations={
            "+".join(some): _scores(benchmark, [one for one in rated if tuple(sorted(one.kinds)) == some])
            for some in (sets if several else ())
        },
        units={name: one.unit for name, one in {**benchmark.measures, "words": WORDS}.items() if one.unit},
        records=tuple(records),
    )


def _scores(benchmark: Benchmark, records: Sequence[JudgedRecord]) -> dict[str, Estimate]:
    return {name: one.estimate(records) for name, one in {**benchmark.measures, "words": WORDS}.items()}


def _ratings(reply: Told, way: JudgeProtocol, count: int) -> tuple[float, ...] | Missing:
    if isinstance(reply, Missing):
        return reply
    found = _rated(reply.text, way, count)
    if found is not None:
        return found
    several = ", ".join(f"{one:g}" for one in way.ratings(reply.text))
    beginning = " ".join(reply.text.split())[:80]
    what = f"not {count} but these ratings: {several}" if several else "no rating"
    return Missing(f"the reply has {what} ({beginning!r})")


def _rated(reply: str, way: JudgeProtocol, count: int) -> tuple[float, ...] | None:
    found = tuple(way.ratings(reply))
    return found if len(found) == count else way.otherwise


def _judged_by(judge: Judge, requests: Sequence[Request], told: Sequence[Told]) -> JudgedBy:
    body = requests[0].body if requests else judge.request((), temperature=0.0, max_tokens=0).body
    served = {reply.model for reply in told if isinstance(reply, Completion) and reply.model}
    return JudgedBy(judge.model, tuple(sorted(served)), body["temperature"], body["max_tokens"], judge.runs)
