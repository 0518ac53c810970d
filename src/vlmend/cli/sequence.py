"""`vlmend sequence`: edit one case after another, and measure along the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import (
    CasesArgument,
    DeviceOption,
    EditorSettingOption,
    EditorsOption,
    LimitOption,
    ModelArgument,
    SkipMissingOption,
    check_askable,
    folder_option,
    load_model,
    make_editors,
    read_cases,
)
from vlmend.cli.console import JsonFlag, progress, replying
from vlmend.errors import VlmendError

if TYPE_CHECKING:
    from rich.table import Table

    from vlmend.data.records import EditCase
    from vlmend.evaluation.sequence import Point

__all__ = ["sequence"]


def sequence(
    model: ModelArgument,
    cases: CasesArgument,
    out: Annotated[Path, folder_option("The run folder; a run that was cut short there goes on.")],
    editors: EditorsOption = "ft",
    setting: EditorSettingOption = None,
    at: Annotated[str, typer.Option(metavar="N,N", help="After how many edits to measure.")] = "1,10,30,100,300,1000",
    turn: Annotated[int, typer.Option(min=1, help="How many cases are edited at once, one turn after another.")] = 1,
    asked: Annotated[int, typer.Option(min=1, help="Of how many earlier cases the probes are asked, at most.")] = 100,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Cases whose requests no edit is about, and must stay; may be repeated."
        ),
    ] = None,
    limit: LimitOption = None,
    skip_missing: SkipMissingOption = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    protocol: Annotated[
        str, typer.Option(help="Whose questions and scores: default, legacy (EasyEdit's) or visedit.")
    ] = "default",
    seed: Annotated[int, typer.Option(help="Of which earlier cases are asked.")] = 0,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Edit one case after another with each editor; measure what is left of earlier edits, and of all else."""
    with replying(as_json) as reply:
        from vlmend.cli.measuring import run_settings
        from vlmend.data.identity import identity
        from vlmend.evaluation.protocols import protocol_of
        from vlmend.evaluation.sequence import sequence as run_through
        from vlmend.report.figures import save
        from vlmend.report.sequence import sequence_figure
        from vlmend.runs import Run

        methods, way, points = make_editors(editors, setting or ()), protocol_of(protocol), _numbers(at)
        wanted = read_cases(cases, limit, skip_missing=skip_missing)
        beside = _held_out(held_out or (), skip_missing=skip_missing)
        vlm = load_model(model, device)
        check_askable(vlm, wanted)
        settings = run_settings(vlm, methods, wanted, way, max_new_tokens) | {
            "at": points,
            "turn": turn,
            "asked": asked,
            "held_out": {name: identity(some) for name, some in beside.items()},
            "seed": seed,
        }
        found: dict[str, list[Point]] = {}
        with Run(out, settings) as run:
            last = max((point for point in points if point <= len(wanted)), default=0)
            for editor in methods:
                log = run.part(editor=editor.name)
                done = max((record["edits"] for record in log.records), default=0)
                with progress(f"Editing with {editor.name}", last, done=done) as advance:
                    found[editor.name] = run_through(
                        vlm,
                        editor,
                        wanted,
                        at=points,
                        turn=turn,
                        asked=asked,
                        held_out={name: [case.request for case in some] for name, some in beside.items()},
                        protocol=way,
                        max_new_tokens=max_new_tokens,
                        seed=seed,
                        log=log,
                        folder=out / "edits" / editor.name,
                        progress=advance,
                    )
            document = {name: [asdict(point) for point in trajectory] for name, trajectory in found.items()}
            run.finish(document)
        figure = save(sequence_figure(found), out / "figures" / "sequence.png")
        reply.say(*(table(name, trajectory) for name, trajectory in found.items()), "Figure:")
        reply.line(str(figure))
        reply.document = {"run": str(out), "figure": str(figure), "seed": seed, "editors": document}


def _numbers(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise VlmendError(f"--at takes whole numbers with commas between, not '{text}'") from None


def _held_out(given: Sequence[str], *, skip_missing: bool) -> dict[str, list[EditCase]]:
    found: dict[str, list[EditCase]] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name and equals and path):
            raise VlmendError(f"--held-out takes NAME=FILE, not '{one}'")
        if name in found:
            raise VlmendError(f"--held-out has two files named '{name}': give each a name of its own")
        found[name] = read_cases(Path(path), skip_missing=skip_missing)
    return found


def table(name: str, points: Sequence[Point]) -> Table:
    """One editor's trajectory: a line a metric, a column a point."""
    from vlmend.cli.tables import quiet_table
    from vlmend.report.sequence import curves

    shown = quiet_table(f"{name}: per cent after so many edits one after another, 95 % interval", "")
    for point in points:
        shown.add_column(str(point.edits), justify="right", no_wrap=True)
    for title, curve in curves(points).items():
        known: Mapping[int, Any] = dict(curve)
        shown.add_row(title, *(_cell(known.get(point.edits)) for point in points))
    shown.add_row("Seconds per edit", *(f"{point.seconds_per_edit:.2f}" for point in points))
    queries = [point.seconds_per_query for point in points]
    if any(seconds is not None for seconds in queries):  # they are those of held-out questions, if there are any
        shown.add_row("Seconds per query", *("–" if seconds is None else f"{seconds:.3f}" for seconds in queries))
    shown.add_row("kB per edit", *(f"{point.bytes_per_edit / 1000:.1f}" for point in points))
    if any(point.failed for point in points):
        shown.add_row("Edits that failed", *(str(point.failed) for point in points))
    if not all(point.finite for point in points):
        shown.add_row("Every number finite", *("yes" if point.finite else "NO" for point in points))
    return shown


def _cell(one: Mapping[str, Any] | None) -> str:
    from vlmend.evaluation.stats import Estimate
    from vlmend.report.words import bounds, percent

    if one is None or one["mean"] is None:
        return "–"
    estimate = Estimate(**one)
    return f"{percent(estimate)} [{bounds(estimate)}]"
