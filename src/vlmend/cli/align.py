"""`vlmend align`: train a model on pairs of answers, against hallucination."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import (
    DeviceOption,
    ModelArgument,
    SkipMissingOption,
    folder_option,
    load_model,
    read_settings,
    with_settings,
)
from vlmend.cli.console import JsonFlag, Reply, bars, replying, working
from vlmend.cli.tables import quiet_table
from vlmend.errors import UnknownNameError
from vlmend.ranks import shares_work
from vlmend.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vlmend.alignment.train import Alignment

__all__ = ["align", "method_of"]

_ADAPTERS = {"lora": "LoRAAdapter", "full": "FullAdapter"}
_SHOWN = 12
_NAMED = 5


@shares_work
def align(
    model: ModelArgument,
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS", help="Pairs of answers: a folder of `vlmend pairs`, or BPO's, mDPO's or TRL's."
        ),
    ],
    out: Annotated[Path, folder_option("The run folder; a training that was cut short there goes on.")],
    objective: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="What is minimised: bpo, mdpo or mpo; sigmoid, sigmoid-norm, robust, hinge, ipo, apo-zero, apo-down, "
            "bco, nca, exo, sppo, image, anchor or sft; or a sum, 'bpo + 0.5*sft'.",
        ),
    ] = "bpo",
    adapter: Annotated[str, typer.Option(help="What is trained: lora, or full (the weights themselves).")] = "lora",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the training or the adapter; may be repeated."),
    ] = None,
    edit: Annotated[list[Path] | None, typer.Option(help="A saved edit to put in force; may be repeated.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="The folder with the file's pictures; its own by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many pairs.")] = None,
    skip_missing: SkipMissingOption = False,
    report_to: Annotated[str, typer.Option(help="A logger of transformers: tensorboard, wandb, trackio.")] = "none",
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Train a model to prefer some answers to others; the result is an edit.

    Several devices: accelerate launch -m vlmend align ...
    """
    with replying(as_json) as reply:
        from vlmend.alignment.loggers import check_logger
        from vlmend.data.formats.preferences import read_preferences

        method = method_of(objective, adapter, read_settings(setting or ()))
        check_logger(report_to)
        with working(f"Reading {pairs}"):
            given = read_preferences(pairs, images, skip_missing=skip_missing).first(limit)
        from transformers.utils import logging

        from vlmend.alignment.train import align as train
        from vlmend.edits.edit import Edit, stacked

        logging.set_verbosity_error()  # its loop warns of what is no concern of the user's
        edits = [Edit.load(folder) for folder in edit or ()]
        vlm = load_model(model, device)
        with vlm.using(stacked(edits) if edits else None), bars() as moved:
            made = train(
                vlm,
                given.pairs,
                out,
                method,
                source=str(pairs),
                left_out=given.skipped,
                report_to=report_to,
                progress=moved,
            )
        given_of = made.chosen["pairs"]
        skipped: list[Mapping[str, str]] = json.loads((out / "run.json").read_text(encoding="utf-8"))["skipped"]
        _show(reply, out, given_of["count"], skipped)
        reply.line(str(out / "edit"))
        reply.document = {
            "out": str(out),
            "edit": made.id,
            "model": vlm.name,
            "pairs": given_of["count"],
            "skipped": len(skipped),
            "left_out": skipped,
        }


def method_of(objective: str, adapter: str, settings: Mapping[str, Any]) -> Alignment:
    """The training with settings that were typed in; a name is the training's or else the adapter's."""
    from vlmend.alignment import adapters
    from vlmend.alignment.train import Alignment

    if adapter not in _ADAPTERS:
        raise UnknownNameError("adapter", adapter, _ADAPTERS)
    kind: Any = getattr(adapters, _ADAPTERS[adapter])
    of_training = {one.name for one in fields(Alignment)} - {"objective", "adapter"}
    of_adapter = {one.name for one in fields(kind)} - of_training
    for name in settings:
        if name not in of_training | of_adapter:
            raise UnknownNameError("setting of the training", name, of_training | of_adapter)
    own = {name: value for name, value in settings.items() if name in of_adapter}
    seed = {"seed": settings["seed"]} if "seed" in settings and "seed" in {one.name for one in fields(kind)} else {}
    made = with_settings(own | seed, kind, f"the adapter '{adapter}'")
    rest = {name: value for name, value in settings.items() if name in of_training}
    return with_settings(rest, Alignment, "the training", beside={"objective": objective, "adapter": made})


def _show(reply: Reply, out: Path, count: int, skipped: Sequence[Mapping[str, str]]) -> None:
    records: list[Mapping[str, Any]] = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    reply.line(
        counted(count, "pair") + (f", {len(skipped)} left out ({out / 'run.json'} names all):" if skipped else "")
    )
    for reason in dict.fromkeys(one["reason"] for one in skipped):
        names = [one["id"] for one in skipped if one["reason"] == reason]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        reply.line(f"  {len(names)} × {reason}: {', '.join(names[:_NAMED])}{more}")
    if not records:
        return
    names = [name for name in records[0] if name not in ("step", "epoch", "learning_rate", "processes", "rank")]
    table = quiet_table("Training: nats; the margin is h+ - h-", "Step")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for record in _some(records):
        table.add_row(str(record["step"]), *(f"{record.get(name, float('nan')):.4g}" for name in names))
    reply.say(table)


def _some(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most so many, evenly, the last among them."""
    every = -(-len(records) // _SHOWN)
    return [*records[:-1:every], records[-1]]
