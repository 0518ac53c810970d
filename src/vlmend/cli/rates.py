"""What `measure` found, as tables: rates, groups, failures, and differences from another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmend.cli.tables import quiet_table
from vlmend.errors import VlmendError

if TYPE_CHECKING:
    from vlmend.cli.console import Reply
    from vlmend.evaluation.failure import Failure
    from vlmend.evaluation.hallucination.asking import Result
    from vlmend.evaluation.judged.benchmark import JudgedResult
    from vlmend.evaluation.stats import Estimate

__all__ = ["earlier", "show", "show_gains"]


def show(reply: Reply, name: str, result: Result) -> None:
    """The rates of a result, and what could not be measured."""
    from vlmend.evaluation.hallucination.amber_whole import AmberWhole

    table = quiet_table(f"{name} ({result.protocol}): per cent", "")
    for column in ("n", "", "95 % interval"):
        table.add_column(column, justify="right")
    _add(table, result.rates, result.units)
    groups = _groups(result)
    if groups:
        table.add_section()
        unit = result.units.get(next(iter(result.rates)))
        _add(table, groups, dict.fromkeys(groups, unit) if unit else {})
    reply.say(table)
    if isinstance(result, AmberWhole) and result.score is not None:
        reply.line(f"{name}: score {result.score:.1f}, the mean of 100 - CHAIR and of F1")
    if failed := _failed(result):
        noun = "reply is" if len(failed) == 1 else "replies are"
        reply.line(
            f"{name}: {len(failed)} {noun} missing and in no score; the same command asks again: {failed[0].why}"
        )


def _groups(result: Result) -> dict[str, Estimate]:
    """Group -> the first rate of those in it."""
    from vlmend.evaluation.judged.benchmark import JudgedResult

    kinds = result.kinds if isinstance(result, JudgedResult) else {}
    return {kind: next(iter(scores.values())) for kind, scores in kinds.items()}


def _failed(result: Result) -> Sequence[Failure]:
    from vlmend.evaluation.hallucination.object_halbench import ObjectHalBenchResult
    from vlmend.evaluation.judged.benchmark import JudgedResult

    return result.failed if isinstance(result, JudgedResult | ObjectHalBenchResult) else ()


def _add(table: Any, rates: Mapping[str, Estimate], units: Mapping[str, str]) -> None:
    from vlmend.report.words import bounds, percent

    for name, one in rates.items():
        shown = name.replace("_", " ")
        if name in units:
            shown = shown.removesuffix("words") + "words in an answer" if units[name] == "words" else shown
            unit = "" if units[name] == "words" else f" {units[name]}"
            cells = (f"{one.mean:.1f}{unit}", f"{one.low:.1f}–{one.high:.1f}") if one.n else ("–", "")
        else:
            cells = (percent(one), bounds(one))
        table.add_row(shown, str(one.n), *cells)


def earlier(run: Path | None, suites: Sequence[str]) -> dict[str, JudgedResult]:
    """The judged results of another run, by suite.

    Raises:
        VlmendError: it has none of these suites.
        DataError: a file of it cannot be read.
    """
    from vlmend.evaluation.judged import BENCHMARKS, read_result

    if run is None:
        return {}
    found = [name for name in suites if name in BENCHMARKS and (run / f"{name}.json").is_file()]
    if not found:
        raise VlmendError(f"--against {run}: it holds no result of a judged suite among {', '.join(suites)}")
    return {name: read_result(run / f"{name}.json") for name in found}


def show_gains(reply: Reply, name: str, before: JudgedResult, after: Result) -> dict[str, Any]:
    """The differences from an earlier result, as a table and as plain JSON values.

    Raises:
        VlmendError: they were measured by different instruments.
    """
    from vlmend.evaluation.judged import compared
    from vlmend.evaluation.judged.benchmark import JudgedResult
    from vlmend.evaluation.proof import without_nan
    from vlmend.report.words import gain

    assert isinstance(after, JudgedResult)
    gains = compared(before, after)
    table = quiet_table(f"{name}: difference from the other run, per cent", "")
    for column in ("n", "[95 % interval]"):
        table.add_column(column, justify="right")
    for measure, one in gains.items():
        plain = f"{one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}] {after.units.get(measure, '')}".strip()
        table.add_row(measure, str(one.n), (plain if measure in after.units else gain(one)) if one.n else "–")
    reply.say(table)
    return without_nan({measure: asdict(one) for measure, one in gains.items()})
