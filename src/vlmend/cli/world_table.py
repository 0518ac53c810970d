"""`vlmend world table`: every editor on every demo model, beside the papers' numbers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import DeviceOption, MaxNewTokensOption, folder_option, load_model, read_cases, typed_device
from vlmend.cli.console import JsonFlag, replying, working
from vlmend.errors import RunError, UnknownNameError, VlmendError
from vlmend.runs import write_json

if TYPE_CHECKING:
    from vlmend.models.vlm import VLM

__all__ = ["table"]

_OUT = Path("runs/table")
_SHOWN, _REFERENCE = 48, 60
_MADE = "made.json"
_TASKS = {"evqa": "E-VQA", "eic": "E-IC"}
_WHAT = (
    "Teacher-forced exact / free generation, per cent after the edit, with 95 % intervals; the mean gain is over free "
    "answers, near misses among them."
)


def table(
    out: Annotated[Path, folder_option("The folder to write to; what was finished there stays.")] = _OUT,
    models: Annotated[
        str, typer.Option(metavar="A,B", help="Which demo models.")
    ] = "demo-llava,demo-blip2,demo-minigpt4",
    editors: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these rows; any editor, by name (`vlmend editors`).")
    ] = None,
    evqa: Annotated[int, typer.Option(min=0, help="E-VQA cases for each model.")] = 60,
    eic: Annotated[int, typer.Option(min=0, help="E-IC cases for each model.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the cases.")] = 7,
    max_new_tokens: MaxNewTokensOption = 32,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Make cases of each model's own errors, measure all editors and controls on them, and write one table: forced and
    free answers, intervals, costs, the papers' numbers, and a remark wherever the order is another."""
    with replying(as_json) as reply:
        from vlmend.cli.measuring import measure_apart
        from vlmend.evaluation.published import reported
        from vlmend.models.bundled import BUNDLED
        from vlmend.report.method_table import method_table
        from vlmend.runs import whole
        from vlmend.world.methods import METHODS, check_methods, files_for, methods_for

        if not evqa + eic:
            raise VlmendError("--evqa and --eic are both 0: there is nothing to measure")
        wanted = list(dict.fromkeys(one.strip() for one in editors.split(","))) if editors else list(METHODS)
        check_methods(wanted)
        chosen = [BUNDLED.get(one.strip(), one.strip()) for one in models.split(",")]
        for name in chosen:
            if name not in BUNDLED:
                raise UnknownNameError("demo model", name, BUNDLED)
        command = ["vlmend", "world", "table", "--models", ",".join(chosen)]
        command += ["--evqa", str(evqa), "--eic", str(eic), "--seed", str(seed)]
        command += ["--editors", ",".join(wanted)] if editors else []
        command += ["--max-new-tokens", str(max_new_tokens)] if max_new_tokens != 32 else []
        command += typed_device(device)
        parts = ["# Editors on the demo models", "", f"Made by `{shlex.join(command)}`. {_WHAT}", ""]
        for name in chosen:
            vlm = load_model(name, device)
            made = dict(methods_for(vlm, wanted, _files(vlm, out / name, seed, files_for(wanted))))
            methods = [editor for editor in made.values() if editor is not None]
            sizes = {task: count for task, count in (("evqa", evqa), ("eic", eic)) if count}
            files = {task: _cases(vlm, out / name / task, task, count, seed) for task, count in sizes.items()}
            for task, file in files.items():
                cases = read_cases(file)
                proofs = measure_apart(vlm, methods, cases, out / name / f"{task}-runs", max_new_tokens)
                title = f"{name}, {_TASKS[task]}, {len(cases)} errors"
                parts.append(method_table(title, proofs, reported(name.removeprefix("demo-"), task)))
            if missing := [f"`{one}`" for one, editor in made.items() if editor is None]:
                parts.append(f"Without weights for {name}, and left out: {', '.join(missing)}.\n")
        with whole(out / "table.md") as part:
            part.write_text("\n".join(parts), encoding="utf-8")
        reply.line(str(out / "table.md"))
        reply.document = {"table": str(out / "table.md"), "models": chosen, "seed": seed}


def _files(vlm: VLM, folder: Path, seed: int, needed: Collection[str]) -> dict[str, Path]:
    """What the methods read, the needed of `vlmend.world.methods.FILES`."""
    from vlmend.world.build import build
    from vlmend.world.exemplars import write

    shown, reference = folder / "training" / "evqa_train.jsonl", folder / "reference" / "exemplars.jsonl"
    if "demonstrations" in needed:
        asked = {"evqa": _SHOWN, "seed": seed, "fingerprint": vlm.fingerprint}
        with working(f"Looking for other errors of {vlm.name}"):
            _made(shown, asked, lambda: build(vlm, shown.parent, evqa={"train": _SHOWN}, eic={}, seed=seed))
    if "reference" in needed:
        with working("Drawing"):
            _made(reference, {"count": _REFERENCE, "seed": seed}, lambda: write(reference.parent, _REFERENCE, seed))
    return {"demonstrations": shown, "reference": reference}


def _cases(vlm: VLM, folder: Path, task: str, count: int, seed: int) -> Path:
    """The file of so many cases of a model's errors."""
    from vlmend.world.build import build

    sizes = {one: {"eval": count if one == task else 0} for one in _TASKS}
    path, asked = folder / f"{task}_eval.jsonl", {task: count, "seed": seed, "fingerprint": vlm.fingerprint}
    with working(f"Looking for errors of {vlm.name}"):
        _made(path, asked, lambda: build(vlm, folder, evqa=sizes["evqa"], eic=sizes["eic"], seed=seed))
    return path


def _made(file: Path, asked: Mapping[str, Any], make: Callable[[], object]) -> None:
    """Make a file unless it is there, with a note beside it of what was asked for; the note comes first, so that no
    file is ever without.

    Raises:
        RunError: it is there, and was not made by this.
    """
    note = file.with_name(_MADE)
    if not file.exists():
        write_json(note, asked)
        make()
        return
    try:
        found: Any = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        raise RunError(f"{file} is there, and {note} does not say what made it: write to another --out") from None
    differ = [f"{key} {found.get(key)}, not {value}" for key, value in asked.items() if found.get(key) != value]
    if differ:
        raise RunError(
            f"{file} was made with {', '.join(differ)}: give the options that it was made with, or another --out"
        )
