"""What is in a list of cases, or of preference pairs: counts by kind, pictures, lengths of answers, repetitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmend.data.pictures import case_files
from vlmend.data.records import EditCase, Example, PreferencePair
from vlmend.data.splits import EDIT, items_of, shared_pictures

__all__ = ["KindCount", "PairSummary", "Summary", "summarise", "summarise_pairs"]


@dataclass(frozen=True, slots=True)
class KindCount:
    """How many questions of one kind there are, how many have an answer, and the answers' lengths in words."""

    kind: str
    count: int
    answers: int
    mean_words: float
    most_words: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The counts.

    Attributes:
        kinds: the edits themselves ("edit"), then every kind of probe.
        pictures: distinct picture files named; ``missing`` are those that are not there.
        without_target: ids of cases with nothing to be edited to.
        repeated: ids of cases whose picture and question an earlier case has.
        sharing_picture: edits whose picture another edit has too, on ``shared_pictures`` pictures.
    """

    cases: int
    kinds: tuple[KindCount, ...]
    pictures: int
    missing: tuple[str, ...]
    without_target: tuple[str, ...]
    repeated: tuple[str, ...]
    sharing_picture: int
    shared_pictures: int


def summarise(cases: Sequence[EditCase]) -> Summary:
    """Count what is in the cases; looks for the picture files, opens none."""
    asked: dict[str, list[Example]] = {EDIT: [case.request for case in cases]}
    for case in cases:
        for probe in case.probes:
            asked.setdefault(probe.kind, []).append(probe.example)
    files = dict.fromkeys(file for case in cases for file in case_files(case))
    sharing, shared = shared_pictures(cases)
    return Summary(
        cases=len(cases),
        kinds=tuple(_counted(kind, examples) for kind, examples in asked.items()),
        pictures=len(files),
        missing=tuple(str(file) for file in files if not file.is_file()),
        without_target=tuple(case.id for case in cases if not (case.request.answer or "").strip()),
        repeated=_repeated(cases),
        sharing_picture=sharing,
        shared_pictures=shared,
    )


def _counted(kind: str, examples: Sequence[Example]) -> KindCount:
    words = [len(example.answer.split()) for example in examples if example.answer]
    mean = sum(words) / len(words) if words else 0.0
    return KindCount(kind, len(examples), len(words), round(mean, 2), max(words, default=0))


def _repeated(cases: Sequence[EditCase]) -> tuple[str, ...]:
    seen: set[object] = set()
    again: list[str] = []
    for case in cases:
        item = dict(items_of(case))[EDIT]
        if item in seen:
            again.append(case.id)
        seen.add(item)
    return tuple(again)


@dataclass(frozen=True, slots=True)
class PairSummary:
    """What is in a list of preference pairs.

    Attributes:
        origins: how worse answers came to be -> how many.
        chosen_words, rejected_words: mean lengths.
        longer: share of pairs whose better answer has more words, half of those with equally many: far from a half,
            length alone tells the answers apart.
        labelled: pairs of which it is told in what the answers differ.
        pictures: distinct picture files named; ``missing`` are those that are not there.
        without_picture: pairs without one.
        left_out: why something in the file is no pair -> how often.
    """

    pairs: int
    origins: dict[str, int]
    chosen_words: float
    rejected_words: float
    longer: float
    labelled: int
    pictures: int
    missing: tuple[str, ...]
    without_picture: int
    left_out: dict[str, int]


def summarise_pairs(pairs: Sequence[PreferencePair], left_out: Mapping[str, int]) -> PairSummary:
    """Count what is in the pairs; looks for the picture files, opens none."""
    files = dict.fromkeys(one for pair in pairs for one in pair.pictures if isinstance(one, Path))
    lengths = [(len(pair.chosen.split()), len(pair.rejected.split())) for pair in pairs]
    count = max(1, len(pairs))
    return PairSummary(
        pairs=len(pairs),
        origins=dict(Counter(pair.origin for pair in pairs)),
        chosen_words=round(sum(chosen for chosen, _ in lengths) / count, 2),
        rejected_words=round(sum(rejected for _, rejected in lengths) / count, 2),
        longer=round(sum((chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected in lengths) / count, 3),
        labelled=sum(pair.labelled for pair in pairs),
        pictures=len(files),
        missing=tuple(str(file) for file in files if not file.is_file()),
        without_picture=sum(not pair.pictures for pair in pairs),
        left_out=dict(left_out),
    )
