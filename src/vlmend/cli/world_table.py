"""`vlmend world table`: every editor on every demo model, beside the papers' numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmend.cli.arguments import DeviceOption, load_model, read_cases
from vlmend.cli.console import JsonFlag, replying, working
from vlmend.errors import UnknownNameError

if TYPE_CHECKING:
    from vlmend.models.vlm import VLM

__all__ = ["table"]

_OUT = Path("runs/table")
_SHOWN, _REFERENCE = 48, 60
_TASKS = {"evqa": "E-VQA", "eic": "E-IC"}
_WHAT = (
    "Teacher-forced exact / free generation, per cent after the edit, with 95 % intervals; the mean gain is over free "
    "answers, near misses among them."
)


def table(
    out: Annotated[Path, typer.Option(help="The folder to write to; what was finished there stays.")] = _OUT,
    models: Annotated[
        str, typer.Option(metavar="A,B", help="Which demo models.")
    ] = "demo-llava,demo-blip2,demo-minigpt4",
    editors: Annotated[str | None, typer.Option(metavar="A,B", help="Only these rows.")] = None,
    evqa: Annotated[int, typer.Option(min=0, help="E-VQA cases for each model.")] = 60,
    eic: Annotated[int, typer.Option(min=0, help="E-IC cases for each model.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the cases.")] = 7,
    max_new_tokens: Annotated[int, typer.Option(min=0, help="Longest answer, in tokens.")] = 32,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Make cases of each model's own errors, measure all editors and controls on them, and write one table: forced and
    free answers, intervals, costs, the papers' numbers, and a remark wherever the order is another."""
    with replying(as_json) as reply:
        from vlmend.cli.measuring import measure
        from vlmend.evaluation.published import reported
        from vlmend.models.bundled import BUNDLED
        from vlmend.report.method_table import method_table
        from vlmend.runs import whole
        from vlmend.world.methods import METHODS, methods_for

        wanted = [one.strip() for one in editors.split(",")] if editors else list(METHODS)
        for name in wanted:
            if name not in METHODS:
                raise UnknownNameError("row of the method table", name, METHODS)
        chosen = [BUNDLED.get(one.strip(), one.strip()) for one in models.split(",")]
        for name in chosen:
            if name not in BUNDLED:
                raise UnknownNameError("demo model", name, BUNDLED)
        command = f"vlmend world table --models {','.join(chosen)} --evqa {evqa} --eic {eic} --seed {seed}"
        command += f" --editors {','.join(wanted)}" if editors else ""
        command += f" --device {device}" if device != "cpu" else ""
        parts = ["# Editors on the demo models", "", f"Made by `{command}`. {_WHAT}", ""]
        for name in chosen:
            vlm = load_model(name, device)
            made = dict(methods_for(vlm, wanted, _files(vlm, out / name, seed)))
            methods = [editor for editor in made.values() if editor is not None]
            for task, count in (("evqa", evqa), ("eic", eic)):
                if not count:
                    continue
                cases = read_cases(_cases(vlm, out / name / task, task, count, seed))
                proofs = measure(vlm, methods, cases, out / name / f"{task}-run", max_new_tokens=max_new_tokens)
                title = f"{name}, {_TASKS[task]}, {len(cases)} errors"
                parts.append(method_table(title, proofs, reported(name.removeprefix("demo-"), task)))
            if missing := [f"`{one}`" for one, editor in made.items() if editor is None]:
                parts.append(f"Without weights for {name}, and left out: {', '.join(missing)}.\n")
        with whole(out / "table.md") as part:
            part.write_text("\n".join(parts), encoding="utf-8")
        reply.line(str(out / "table.md"))
        reply.document = {"table": str(out / "table.md"), "models": chosen, "seed": seed}


def _files(vlm: VLM, folder: Path, seed: int) -> dict[str, Path]:
    """What some methods read, made unless it is there: see `vlmend.world.methods.FILES`."""
    from vlmend.world.build import build
    from vlmend.world.exemplars import write

    shown, reference = folder / "training" / "evqa_train.jsonl", folder / "reference" / "exemplars.jsonl"
    if not shown.exists():
        with working(f"Looking for other errors of {vlm.name}"):
            build(vlm, shown.parent, evqa={"train": _SHOWN}, eic={}, seed=seed)
    if not reference.exists():
        with working("Drawing"):
            write(reference.parent, _REFERENCE, seed)
    return {"demonstrations": shown, "reference": reference}


def _cases(vlm: VLM, folder: Path, task: str, count: int, seed: int) -> Path:
    """The file of so many cases of a model's errors, made unless it is there."""
    from vlmend.world.build import build

    path = folder / f"{task}_eval.jsonl"
    if not path.exists():
        with working(f"Looking for errors of {vlm.name}"):
            sizes = {one: {"eval": count if one == task else 0} for one in _TASKS}
            build(vlm, folder, evqa=sizes["evqa"], eic=sizes["eic"], seed=seed)
    return path
