"""`vlmend train-editor`: train an editor that must be trained before it edits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import (
    CasesArgument,
    DeviceOption,
    LimitOption,
    ModelArgument,
    SkipMissingOption,
    check_askable,
    folder_option,
    load_model,
    make_training,
    read_cases,
    read_settings,
)
from vlmend.cli.console import JsonFlag, progress, replying
from vlmend.cli.tables import quiet_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from vlmend.editors.shelf import Trained

__all__ = ["train_editor"]


def train_editor(
    editor: Annotated[
        str,
        typer.Argument(metavar="EDITOR", help="Which editor, by name: one that `vlmend editors` says needs training."),
    ],
    model: ModelArgument,
    cases: CasesArgument,
    out: Annotated[Path, folder_option("Folder for the weights; a training that was cut short there goes on.")],
    more: Annotated[
        list[Path] | None, typer.Option("--cases", help="A further file of cases to learn from; may be repeated.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the training, as `vlmend editors EDITOR` lists them; may be repeated.",
        ),
    ] = None,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="Save the weights in bfloat16: half the size, rounded after the checks.")
    ] = False,
    limit: LimitOption = None,
    skip_missing: SkipMissingOption = False,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Train an editor for a model on edit cases, and save its weights.

    The cases must not be those that it is measured on later. Some are held out to choose the best weights.
    """
    with replying(as_json) as reply:
        method = make_training(editor, read_settings(setting or ()))
        files = [cases, *(more or ())]
        wanted = [case for file in files for case in read_cases(file, limit, skip_missing=skip_missing)]
        vlm = load_model(model, device)
        check_askable(vlm, wanted)
        import torch

        from vlmend.editors.training import train

        with progress(f"Training {editor}", method.steps) as advance:
            source = ", ".join(file.name for file in files)
            kept = torch.bfloat16 if bfloat16 else torch.float32
            trained = train(method, vlm, wanted, out, source=source, dtype=kept, progress=lambda _done, _all: advance())
        reply.say(_table(trained, out))
        reply.line(str(out))
        reply.document = {"out": str(out), "editor": editor, "model": vlm.name, "best": dict(trained.about["best"])}


def _table(trained: Trained, out: Path) -> Table:
    """Every check; the best is marked."""
    import json

    records: list[Mapping[str, Any]] = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    table = quiet_table("Checks on cases held out: share answered as it should be", "Step")
    for column in ("Score", "Loss", *records[0]["held out"]):
        table.add_column(column, justify="right")
    for record in records:
        mark = " *" if record["step"] == trained.about["best"]["step"] else ""
        shares = (f"{share:.3f}" for share in record["held out"].values())
        table.add_row(f"{record['step']}{mark}", f"{record['score']:.3f}", f"{record['held out loss']:.3f}", *shares)
    return table
