"""`vlmend measure`: how much a model makes up, and what a judge makes of its answers, on published files,
or on the demo world.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import DeviceOption, ModelArgument, folder_option, load_model, read_settings
from vlmend.cli.console import JsonFlag, progress, replying, working
from vlmend.cli.judging import (
    AgainstOption,
    JudgeKeyOption,
    JudgeModelOption,
    JudgeOption,
    JudgePromptOption,
    JudgeRunsOption,
    JudgeTemperatureOption,
    RepliesOption,
    make_judge,
)
from vlmend.cli.rates import earlier, show, show_gains
from vlmend.runs import Run, write_json

if TYPE_CHECKING:
    from vlmend.evaluation.hallucination.asking import Result

__all__ = ["measure"]


def measure(
    model: ModelArgument,
    out: Annotated[Path, folder_option("The run folder; a run that was cut short there goes on.")],
    suite: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="What is asked: pope, chair, amber, object-halbench; by a judge: mmvet, llava-bench, "
            "llava-bench-coco, mmhal.",
        ),
    ] = "pope",
    file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SUITE=]PATH",
            help="A benchmark's file as published; SUITE.ROLE=PATH for one that is not beside it. Without any, pope "
            "and chair draw scenes of the demo world.",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="[SUITE=]FOLDER", help="The folder with the file's pictures; its own by default."),
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes of the demo world.")] = 200,
    edit: Annotated[list[Path] | None, typer.Option(help="A saved edit to put in force; may be repeated.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of the one suite: how answers, or a judge's replies, are read.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many questions of a file.")] = None,
    skip_missing: Annotated[
        bool,
        typer.Option("--skip-missing", help="Leave out questions whose pictures are missing or cannot be read."),
    ] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens; 64, or 512 where it may be a description.")
    ] = None,
    decode: Annotated[
        str, typer.Option("--decoding", help="greedy, or vcd: contrastive decoding against noisy pictures.")
    ] = "greedy",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the decoding: alpha, beta, step, temperature, seed."
        ),
    ] = None,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    judge_key: JudgeKeyOption = None,
    judge_runs: JudgeRunsOption = 1,
    judge_temperature: JudgeTemperatureOption = None,
    judge_prompt: JudgePromptOption = None,
    replies: RepliesOption = None,
    against: AgainstOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Ask a model what is in pictures, and say how much of what it answers is made up, or what a judge makes of it."""
    with replying(as_json) as reply:
        from vlmend.cli.asked import suites_of
        from vlmend.edits.edit import Edit, library_versions, stacked
        from vlmend.evaluation.decoding import decoding, settings_of
        from vlmend.evaluation.hallucination.asking import answers_to

        way = decoding(decode, read_settings(settings or ()))
        the_judge = make_judge(
            judge, judge_model, judge_key, out, replies or (), runs=judge_runs, temperature=judge_temperature
        )
        prompts = judge_prompt or ()
        with working("Looking at the questions and their pictures"):
            suites = suites_of(
                suite, file or (), images or (), prompts, scenes, protocol, limit, skip_missing, the_judge
            )
        others = earlier(against, [one.name for one in suites])
        edits = [Edit.load(folder) for folder in edit or ()]
        vlm = load_model(model, device)
        longest = {one.name: max_new_tokens or one.max_new_tokens for one in suites}
        about = {
            "model": vlm.name,
            "fingerprint": vlm.fingerprint,
            "suites": {one.name: {"count": len(one.asked), "hash": one.fingerprint} for one in suites},
            "edits": [one.id for one in edits],
            "max_new_tokens": longest,
            "decoding": settings_of(way),
            "versions": library_versions(),
        }
        results: dict[str, Result] = {}
        with vlm.using(stacked(edits) if edits else None), Run(out, about) as run:
            done, total = len(run.records), sum(len(one.asked) for one in suites)
            with progress("Asking", total, done=done) as advance:
                answers = {
                    one.name: answers_to(
                        vlm,
                        one,
                        run.part(suite=one.name),
                        max_new_tokens=longest[one.name],
                        progress=advance,
                        way=way,
                    )
                    for one in suites
                }
            for one in suites:
                with working(f"Scoring {one.name}"):
                    results[one.name] = one.score(answers[one.name])
                write_json(out / f"{one.name}.json", results[one.name].to_json())
            run.finish({name: _metrics(result) for name, result in results.items()})
        for name, result in results.items():
            show(reply, name, result)
        gains = {name: show_gains(reply, name, others[name], results[name]) for name in others}
        reply.line(str(out))
        reply.document = {
            "run": str(out),
            "model": vlm.name,
            "edits": [one.id for one in edits],
            "decoding": settings_of(way),
            "suites": {name: _metrics(result) for name, result in results.items()},
        } | ({"against": {"run": str(against), "gains": gains}} if against else {})


def _metrics(result: Result) -> dict[str, Any]:
    """All of a result but its answers."""
    return {name: value for name, value in result.to_json().items() if name != "records"}
