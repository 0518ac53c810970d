"""The data card of a benchmark: what it is, how it came about, what was left out, and what it gives away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlmend.build.benchmark import CLEAN, Benchmark
from vlmend.data.pictures import case_files
from vlmend.data.records import EditCase
from vlmend.evaluation.kinds import kind_of

__all__ = ["card", "statistics"]

_MEANS = {
    "read": "what was not read",
    "asked": "records that are no error for good, or one too many",
    "reworded": "rewordings that were thrown away",
    "pictured": "second pictures that were thrown away",
    "dealt": "questions that must stay and are not asked",
    "divided": "probes that changed sides with their cases",
    "published": "what is in the .jsonl alone, for EasyEdit's loaders take whole records of MMEdit's format only",
}

_COUNTS = {
    "cases": "cases",
    "published": "cases in the .json, too",
    "pictures": "pictures",
    "questions": "questions",
}


def statistics(benchmark: Benchmark) -> dict[str, Any]:
    """Counts as plain JSON values."""
    return {
        "asked": benchmark.asked,
        "train": _counted(benchmark.train, benchmark.published[0]),
        "eval": _counted(benchmark.evaluation, benchmark.published[1]),
        "dropped": {step: dict(some) for step, some in benchmark.dropped.items()},
        "records": _by_record(benchmark),
        "leaks": {leak.role: {"of": leak.of, "cases": len(leak.cases)} for leak in benchmark.leaks},
        "clean": benchmark.clean,
    }


def _by_record(benchmark: Benchmark) -> dict[str, dict[str, list[str]]]:
    """Step after the asking -> record -> why something of it was left out there."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in benchmark.left_out:
        if one.step != "asked" and one.record is not None:
            found.setdefault(one.step, {}).setdefault(one.record, []).append(one.why)
    return found


def _counted(cases: Sequence[EditCase], published: int) -> dict[str, Any]:
    probes = Counter(probe.kind for case in cases for probe in case.probes)
    distinct = {
        kind: len({(p.example.question, p.example.pictures) for case in cases for p in case.probes_of(kind)})
        for kind in probes
    }
    return {
        "cases": len(cases),
        "published": published,
        "pictures": len({file for case in cases for file in case_files(case)}),
        "questions": len({case.request.question for case in cases}),
        "probes": {kind: {"n": count, "distinct": distinct[kind]} for kind, count in sorted(probes.items())},
    }


def card(benchmark: Benchmark, *, about: Mapping[str, str], command: str) -> str:
    """The card in Markdown.

    Args:
        benchmark: what was built.
        about: what else there is to say of how, by name.
        command: what was typed.
    """
    found = statistics(benchmark)
    lines = ["# An edit benchmark", "", f"Made by `{command}`.", ""]
    lines += [*(f"* **{name}**: {value}" for name, value in about.items()), ""]
    lines += ["| | training | evaluation |", "|---|--:|--:|"]
    for name, shown in _COUNTS.items():
        lines.append(f"| {shown} | {found['train'][name]} | {found['eval'][name]} |")
    for kind in dict.fromkeys([*found["train"]["probes"], *found["eval"]["probes"]]):
        cells = [_probes(found[side]["probes"].get(kind)) for side in ("train", "eval")]
        lines.append(f"| {kind_of(kind).name} | {' | '.join(cells)} |")
    lines += ["", f"{benchmark.asked} records were asked. Left out:", "", "| step | why | times |", "|---|---|--:|"]
    for step, some in benchmark.dropped.items():
        lines += [f"| {_MEANS[step]} | {why} | {count} |" for why, count in some.items()]
    lines += ["", "## What the training part gives away", ""]
    lines += ["| role | evaluation cases | in the training part too |", "|---|--:|--:|"]
    for leak in benchmark.leaks:
        mark = "" if leak.role in CLEAN else " *"
        lines.append(f"| {leak.role}{mark} | {leak.of} | {len(leak.cases)} |")
    verdict = "Nothing leaks" if benchmark.clean else "**Something leaks**"
    shared = "\\* may be shared: questions about other pictures."
    lines += ["", f"{verdict} in edits, their pictures, rewordings, second pictures and locality items. {shared}"]
    return "\n".join([*lines, ""])


def _probes(counted: Mapping[str, int] | None) -> str:
    return "" if counted is None else f"{counted['n']} ({counted['distinct']} distinct)"
