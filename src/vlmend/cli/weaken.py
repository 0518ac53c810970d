"""`vlmend weaken`: what a model makes up of pictures that are weakened more and more, and at which step most."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import DeviceOption, LimitOption, ModelArgument, folder_option, load_model
from vlmend.cli.console import JsonFlag, replying, working
from vlmend.cli.dosing import CURVE, curve_of
from vlmend.cli.tables import quiet_table
from vlmend.errors import VlmendError
from vlmend.runs import Run, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vlmend.evaluation.hallucination.dose import Described

__all__ = ["weaken"]


def weaken(
    model: ModelArgument,
    out: Annotated[Path, folder_option("The run folder; a run that was cut short there goes on.")],
    steps: Annotated[
        str, typer.Option(metavar="A,B", help="Steps of noise, 0 (none) to 999.")
    ] = "0,200,400,500,600,700,800,900,999",
    where: Annotated[str, typer.Option(help="Where the noise goes: pixels (the processor's) or picture.")] = "pixels",
    contrast: Annotated[
        float, typer.Option(min=0.0, help="Described by (1 + A) x with noise - A x without; 0 for none.")
    ] = 0.0,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes of the demo world.")] = 200,
    queries: Annotated[Path | None, typer.Option(help="AMBER's queries, instead of the demo world.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="AMBER's annotations of them.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder with AMBER's pictures.")] = None,
    limit: LimitOption = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest description, in tokens.")] = 64,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Describe pictures under more and more noise, and find the step at which most of what is expected and absent is
    named: the one to make worse answers with (`vlmend pairs --by weaken --step`)."""
    with replying(as_json) as reply:
        from vlmend.alignment.weaken import Weakening
        from vlmend.edits.edit import library_versions
        from vlmend.evaluation.hallucination.dose import worst
        from vlmend.report.dose_figure import dose_figure
        from vlmend.report.figures import save
        from vlmend.report.words import bounds, percent

        wanted = _steps(steps)
        how: Any = Weakening("step", max(wanted), where, seed)  # pyright: ignore[reportArgumentType]
        described, named = _described(scenes, queries, annotations, images, limit)
        vlm = load_model(model, device)
        settings = {
            "model": vlm.name,
            "fingerprint": vlm.fingerprint,
            "described": [len(described), described[0].id, described[-1].id],
            "source": str(queries) if queries else "the demo world",
            "where": where,
            "contrast": contrast,
            "seed": seed,
            "max_new_tokens": max_new_tokens,
            "versions": library_versions(),
        }
        with Run(out, settings) as run:
            curve = curve_of(vlm, described, wanted, named, how, run, contrast=contrast, max_new_tokens=max_new_tokens)
            top = worst(curve)
            document = {"model": vlm.name, "step": top.step, "curve": [asdict(dose) for dose in curve]}
            run.finish(document)
        with working("Drawing the figure"):
            write_json(out / CURVE, document)
            figure = save(dose_figure(curve), out / "curve.png")
        table = quiet_table("In per cent, 95 % interval", "Step")
        for column in ("SNR, dB", "Expected", "", "CHAIR_i", "", "Recall", "", "Words"):
            table.add_column(column, justify="right")
        for dose in curve:
            rates = [
                word for one in (dose.expected, dose.invented, dose.recall) for word in (percent(one), bounds(one))
            ]
            ratio = "–" if dose.snr is None else f"{dose.snr:.1f}"
            table.add_row(str(dose.step), ratio, *rates, f"{dose.words.mean:.1f}")
        reply.say(table, f"Most of what is expected and absent is named at step {top.step}.")
        reply.line(str(figure))
        reply.document = {"run": str(out), "figure": str(figure), **document}


def _steps(given: str) -> list[int]:
    try:
        found = sorted({int(word) for word in given.split(",")})
    except ValueError as error:
        raise VlmendError(f"--steps takes numbers with commas between, not '{given}'") from error
    if not all(0 <= step <= 999 for step in found):
        raise VlmendError(f"--steps takes steps from 0 to 999, not '{given}'")
    return found


def _described(
    scenes: int, queries: Path | None, annotations: Path | None, images: Path | None, limit: int | None
) -> tuple[Sequence[Described], Callable[[str], Iterable[str]]]:
    """What is to be described, and what finds objects in a text."""
    from vlmend.data.records import Example
    from vlmend.evaluation.hallucination.dose import Described

    if queries is None:
        if annotations or images:
            raise VlmendError("--annotations and --images go with --queries")
        from vlmend.world.captions import mentions
        from vlmend.world.described import described

        return described(scenes)[:limit], mentions
    if annotations is None:
        raise VlmendError("--queries needs --annotations")
    from vlmend.data.formats import amber
    from vlmend.data.objects import Vocabulary

    folder = queries.parent if images is None else images
    asked = amber.read(queries, annotations).descriptions[:limit]
    if not asked:
        raise VlmendError(f"{queries}: it asks for no description")
    if missing := [one.image for one in asked if not (folder / one.image).is_file()]:
        raise VlmendError(f"{folder} lacks {len(missing)} of the pictures, such as {missing[0]}")
    names = dict.fromkeys(name for one in asked for name in (*one.truth, *one.hallu))
    found = [
        Described(
            str(one.id),
            Example(one.question, folder / one.image),
            frozenset(one.truth),
            frozenset(one.hallu) - frozenset(one.truth),
        )
        for one in asked
    ]
    return found, Vocabulary(dict.fromkeys(names, ())).mentioned
