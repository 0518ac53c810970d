"""Two results of one benchmark, if they were measured by the same instrument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vlmend.data.formats.files import Record, read_object
from vlmend.errors import DataError, UnknownNameError, VlmendError
from vlmend.evaluation.judged.benchmark import (
    WORDS,
    Failure,
    JudgedBy,
    JudgedRecord,
    JudgedResult,
    result_of,
)
from vlmend.evaluation.judged.shelf import BENCHMARKS
from vlmend.evaluation.stats import Estimate, ratio_gain

__all__ = ["compared", "read_result"]

_SAME = ("benchmark", "protocol", "version", "prompt")


def compared(before: JudgedResult, after: JudgedResult) -> dict[str, Estimate]:
    """Measure -> the difference over the answers that both have ratings of, by the paired bootstrap over pictures.

    Raises:
        VlmendError: they differ in benchmark, protocol, prompt, judge, its version, its temperature, the longest reply
            or the number of runs; no difference between such results is one between models. Or they are of other
            questions.
    """
    differ = list(_differences(before, after))
    if differ:
        raise VlmendError(f"results of different instruments cannot be compared: {'; '.join(differ)}")
    first, second = ({one.id: one for one in result.records} for result in (before, after))
    if first.keys() != second.keys():
        raise VlmendError(f"{before.benchmark}: the two results are of different questions")
    both = [key for key, one in first.items() if one.ratings and second[key].ratings]
    olds, news = [first[key] for key in both], [second[key] for key in both]
    measures = {**BENCHMARKS[before.benchmark].measures, "words": WORDS}
    pictures = [one.picture for one in olds]
    return {name: ratio_gain(one.of(olds), one.of(news), pictures) for name, one in measures.items()}


def read_result(path: Path | str) -> JudgedResult:
    """A result that was written as JSON.

    Raises:
        DataError: the file cannot be read, or is no such result.
        UnknownNameError: it is of a benchmark that there is not.
    """
    path = Path(path)
    whole = read_object(path)
    try:
        name = str(whole["benchmark"])
        if name not in BENCHMARKS:
            raise UnknownNameError("judged benchmark", name, BENCHMARKS)
        benchmark = BENCHMARKS[name]
        protocol = benchmark.protocol(whole["protocol"])
        records = [
            JudgedRecord(
                Record(path, index, one).key("id"),
                str(one["image"]),
                tuple(one["kinds"]),
                str(one["text"]),
                int(one["words"]),
                tuple(one["replies"]),
                tuple(tuple(map(float, rating)) for rating in one["ratings"]),
            )
            for index, one in enumerate(whole["records"])
        ]
        judge = _kept(JudgedBy, whole["judge"])
        failed = [_kept(Failure, one) for one in whole["failed"]]
        version, prompt = str(whole["version"]), str(whole["prompt"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"is no result of a judged benchmark: {type(error).__name__} {error}", path=path) from error
    if version != protocol.version:
        problem = f"is of version {version} of '{protocol.name}', and this vlmend has {protocol.version}"
        raise DataError(problem, path=path, field="version")
    return result_of(benchmark, protocol, prompt, judge, records, failed)


def _kept(kind: Any, values: Mapping[str, Any]) -> Any:
    return kind(**{one.name: _frozen(values[one.name]) for one in fields(kind)})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _differences(before: JudgedResult, after: JudgedResult) -> Iterator[str]:
    for owner, names in (("", _SAME), ("judge", tuple(one.name for one in fields(JudgedBy)))):
        for name in names:
            one, other = (getattr(getattr(result, owner) if owner else result, name) for result in (before, after))
            if one != other:
                yield f"{f'{owner} ' if owner else ''}{name} {_shown(one)} and {_shown(other)}"


def _shown(value: Any) -> str:
    return (", ".join(value) or "unnamed") if isinstance(value, tuple) else str(value)
