"""`vlmend measure`: how much a model makes up, by POPE on a published file, or by POPE and CHAIR on the demo world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import ModelArgument, SkipMissingOption, load_model
from vlmend.cli.console import JsonFlag, Reply, progress, replying
from vlmend.cli.tables import quiet_table
from vlmend.errors import UnknownNameError, VlmendError
from vlmend.runs import Run, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmend.evaluation.hallucination.asking import Result, Suite
    from vlmend.evaluation.stats import Estimate

__all__ = ["measure"]


def measure(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The run folder; a run that was cut short there goes on.")],
    suite: Annotated[str, typer.Option(metavar="A,B", help="What is asked: pope, chair.")] = "pope",
    file: Annotated[
        Path | None, typer.Option(help="A POPE file as published; without one, scenes of the demo world are drawn.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="The folder with the file's pictures; its own by default.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes of the demo world.")] = 200,
    edit: Annotated[list[Path] | None, typer.Option(help="A saved edit to put in force; may be repeated.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of the one suite: pope-first-word or pope; chair, chair-lemma or chair-2018.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many questions of the file.")] = None,
    skip_missing: SkipMissingOption = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    as_json: JsonFlag = False,
) -> None:
    """Ask a model what is in pictures, and say how much of what it answers is made up."""
    with replying(as_json) as reply:
        from vlmend.edits.edit import Edit, library_versions, stacked
        from vlmend.evaluation.hallucination.asking import answers_to

        suites = _suites(suite, file, images, scenes, protocol, limit, skip_missing)
        edits = [Edit.load(folder) for folder in edit or ()]
        vlm = load_model(model)
        settings = {
            "model": vlm.name,
            "fingerprint": vlm.fingerprint,
            "suites": {one.name: {"count": len(one.asked), "hash": one.fingerprint} for one in suites},
            "edits": [one.id for one in edits],
            "max_new_tokens": max_new_tokens,
            "versions": library_versions(),
        }
        results: dict[str, Result] = {}
        with vlm.using(stacked(edits) if edits else None), Run(out, settings) as run:
            done, total = len(run.records), sum(len(one.asked) for one in suites)
            with progress("Asking", total, done=done) as advance:
                for one in suites:
                    log = run.part(suite=one.name)
                    answers = answers_to(vlm, one, log, max_new_tokens=max_new_tokens, progress=advance)
                    results[one.name] = one.score(answers)
            run.finish({name: _metrics(result) for name, result in results.items()})
        for name, result in results.items():
            write_json(out / f"{name}.json", result.to_json())
            _show(reply, name, result)
        reply.line(str(out))
        reply.document = {
            "run": str(out),
            "model": vlm.name,
            "edits": [one.id for one in edits],
            "suites": {name: _metrics(result) for name, result in results.items()},
        }


def _suites(
    names: str,
    file: Path | None,
    images: Path | None,
    scenes: int,
    protocol: str | None,
    limit: int | None,
    skip_missing: bool,
) -> Sequence[Suite]:
    """What is to be asked; a published file is POPE's."""
    from vlmend.world.suites import SUITES

    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted:
        raise VlmendError("--suite names no suite")
    for name in wanted:
        if name not in SUITES:
            raise UnknownNameError("suite", name, SUITES)
    if protocol is not None and len(wanted) > 1:
        raise VlmendError("--protocol goes with one suite")
    if file is None:
        for option, given in (("--images", images), ("--limit", limit), ("--skip-missing", skip_missing)):
            if given:
                raise VlmendError(f"{option} goes with --file")
        return [SUITES[name](scenes, protocol=protocol) for name in wanted]
    if wanted != ["pope"]:
        raise VlmendError("--file takes a POPE file, which --suite pope asks")
    from vlmend.data.formats import pope
    from vlmend.evaluation.hallucination.asking import pope_suite
    from vlmend.evaluation.hallucination.pope import DEFAULT

    way = protocol or DEFAULT
    folder = file.parent if images is None else images
    return [pope_suite(file, pope.read(file)[:limit], folder, protocol=way, skip_missing=skip_missing)]


def _metrics(result: Result) -> dict[str, Any]:
    """All of a result but its answers."""
    return {name: value for name, value in result.to_json().items() if name != "records"}


def _show(reply: Reply, name: str, result: Result) -> None:
    from vlmend.report.words import bounds, percent

    def cells(rate: str, one: Estimate) -> tuple[str, str, str, str]:
        if rate == "words":
            return "words in an answer", str(one.n), f"{one.mean:.1f}", f"{one.low:.1f}–{one.high:.1f}"
        return rate.replace("_", " "), str(one.n), percent(one), bounds(one)

    table = quiet_table(f"{name} ({result.protocol}): per cent", "")
    for column in ("n", "", "95 % interval"):
        table.add_column(column, justify="right")
    for rate, one in result.rates.items():
        table.add_row(*cells(rate, one))
    reply.say(table)
