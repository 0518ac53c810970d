"""Yes/no questions: reading the answers, and accuracy, precision, recall and F1 of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vlmend.data.questions import YES_NO, Answer, Key, YesNo, YesNoQuestion
from vlmend.evaluation.hallucination.answering import answered
from vlmend.evaluation.hallucination.rates import Rated, estimates_of, length, rate, words_in
from vlmend.evaluation.stats import Estimate

__all__ = ["YesNoProtocol", "YesNoRecord", "YesNoResult", "YesNoScores", "asked", "first_word", "scores_of"]

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class YesNoProtocol:
    """A way of scoring yes/no answers.

    Attributes:
        name, version: what its numbers go by; the version changes whenever a number might.
        positive: the answer that precision, recall and F1 are about.
        read: an answer's text as yes or no; ``None`` if it is neither.
        unreadable: how an answer that says neither counts, in a sentence.
    """

    name: str
    version: str
    positive: YesNo
    read: Callable[[str], YesNo | None]
    unreadable: str


def first_word(text: str) -> YesNo | None:
    """Yes or no if that is an answer's first word, in any case; else neither."""
    word = _WORD.search(text)
    return YES_NO.get(word[0].lower()) if word else None


@dataclass(frozen=True, slots=True)
class YesNoRecord:
    """One answer: what it was read as (``None``: neither yes nor no), and what is right."""

    id: Key
    image: str
    kinds: tuple[str, ...]
    text: str
    said: YesNo | None
    right: YesNo

    @property
    def picture(self) -> Key:
        """What it is resampled with: its picture, or the question itself where none is named."""
        return self.image or self.id


@dataclass(frozen=True, slots=True)
class YesNoScores:
    """Scores of yes/no answers; ``nan`` where there is nothing to count.

    Attributes:
        n: how many answers.
        accuracy: share that are right; one that says neither is wrong.
        precision: share of right ones among those that say the positive answer.
        recall: share that say it where it is right.
        f1: their harmonic mean, 2TP / (2TP + FP + FN).
        says_yes: share that say yes.
        unreadable: share that say neither.
        words: mean length.
    """

    n: int
    accuracy: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    says_yes: Estimate
    unreadable: Estimate
    words: Estimate


@dataclass(frozen=True)
class YesNoResult(Rated):
    """Scores of all answers and of each kind of question, and every answer.

    ``unreadable`` is the protocol's word on answers that are neither yes nor no; ``positive`` is the answer that
    precision, recall and F1 are about.
    """

    protocol: str
    version: str
    positive: YesNo
    unreadable: str
    scores: YesNoScores
    kinds: Mapping[str, YesNoScores]
    records: tuple[YesNoRecord, ...]

    @property
    def rates(self) -> dict[str, Estimate]:
        """Name -> rate, with coverage and length among them."""
        return estimates_of(self.scores)


def asked(questions: Sequence[YesNoQuestion], answers: Iterable[Answer], protocol: YesNoProtocol) -> YesNoResult:
    """The result of yes/no questions.

    Raises:
        VlmendError: questions and answers do not belong together one by one.
    """
    texts = answered([one.id for one in questions], answers)
    records = tuple(
        YesNoRecord(one.id, one.image, one.kinds, texts[one.id], protocol.read(texts[one.id]), one.answer)
        for one in questions
    )
    kinds = dict.fromkeys(kind for one in questions for kind in one.kinds)
    return YesNoResult(
        protocol=protocol.name,
        version=protocol.version,
        positive=protocol.positive,
        unreadable=protocol.unreadable,
        scores=scores_of(records, protocol.positive),
        kinds={kind: scores_of([one for one in records if kind in one.kinds], protocol.positive) for kind in kinds},
        records=records,
    )


def scores_of(records: Sequence[YesNoRecord], positive: YesNo) -> YesNoScores:
    """Scores of some answers."""
    return YesNoScores(
        n=len(records),
        accuracy=rate((one.picture, one.said == one.right) for one in records),
        precision=rate((one.picture, one.right == positive) for one in records if one.said == positive),
        recall=rate((one.picture, one.said == positive) for one in records if one.right == positive),
        f1=_f1(records, positive),
        says_yes=rate((one.picture, one.said == "yes") for one in records),
        unreadable=rate((one.picture, one.said is None) for one in records),
        words=length((one.picture, words_in(one.text)) for one in records),
    )


def _f1(records: Sequence[YesNoRecord], positive: YesNo) -> Estimate:
    """A share too, of (twice each true positive, each false one, each one missed), so resampled like the others."""
    hits: list[tuple[Key, bool]] = []
    for one in records:
        said, right = one.said == positive, one.right == positive
        if said or right:
            hits += [(one.picture, True)] * 2 if said and right else [(one.picture, False)]
    return replace(rate(hits), n=len(records))
