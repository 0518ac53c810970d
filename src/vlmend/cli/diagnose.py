"""`vlmend diagnose`: why a model answers as it does."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import (
    DeviceOption,
    MaxNewTokensOption,
    ModelArgument,
    folder_option,
    load_model,
    typed_device,
)
from vlmend.cli.console import JsonFlag, replying, working
from vlmend.cli.tables import quiet_table
from vlmend.errors import VlmendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from vlmend.attribution.diagnosis import Diagnosis
    from vlmend.report.diagnosis_page import Sheet

__all__ = ["diagnose"]


def diagnose(
    model: ModelArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    answer: Annotated[str | None, typer.Option(help="The answer to explain; the model's own by default.")] = None,
    against: Annotated[str | None, typer.Option(help="Another answer: why the one rather than this.")] = None,
    out: Annotated[Path | None, folder_option("Folder for page and figures; a new one in runs/ by default.")] = None,
    edit: Annotated[list[Path] | None, typer.Option(help="A saved edit to put in force; may be repeated.")] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="1,2", help="Layers whose attention noise enters for the heat maps.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Points on the path of integrated gradients.")] = 24,
    tokens: Annotated[int, typer.Option(min=1, help="Heat maps for so many tokens of the answer.")] = 8,
    max_new_tokens: MaxNewTokensOption = 32,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Show why a model answers as it does: picture or prior, which parts of the picture, which layers."""
    with replying(as_json) as reply:
        from vlmend.attribution import diagnosis as explained
        from vlmend.data.records import Example
        from vlmend.edits.edit import Edit, library_versions, stacked
        from vlmend.models.pictures import open_picture
        from vlmend.report.diagnosis_page import fill, headline, sheets, suspicion

        where = explained.LAYERS if layers is None else _indices(layers)
        example = Example(question, open_picture(image))
        edits = [Edit.load(folder) for folder in edit or ()]
        vlm = load_model(model, device)
        with working("Looking for reasons"), vlm.using(stacked(edits) if edits else None):
            found = explained.diagnose(
                vlm, example, answer, against, layers=where, steps=steps, most=tokens, max_new_tokens=max_new_tokens
            )
        folder = out or Path("runs") / f"diagnose-{datetime.now():%Y%m%d-%H%M%S}"
        command = ["vlmend", "diagnose", model, str(image), question, *typed_device(device)]
        command += [] if answer is None else ["--answer", answer]
        command += [] if against is None else ["--against", against]
        command += [word for one in edit or () for word in ("--edit", str(one))]
        command += [] if layers is None else ["--layers", layers]
        command += [] if steps == explained.STEPS else ["--steps", str(steps)]
        facts = {
            "Versions": ", ".join(f"{name} {version}" for name, version in library_versions().items()),
            "When": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        }
        with working("Drawing"):
            shown = sheets(found)
            path = fill(folder, found, shown, facts, shlex.join(command))
        reply.say(
            _table(found), headline(found), *suspicion(found), *(f"Note: {note}" for note in found.notes), "", "Page:"
        )
        reply.line(str(path))
        reply.document = _document(found, shown, path) | {"image": str(image)}


def _indices(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in text.split(","))
    except ValueError:
        raise VlmendError(f"--layers takes numbers of layers with commas between them, not '{text}'") from None


def _table(found: Diagnosis) -> Table:
    from vlmend.report.diagnosis_page import likely
    from vlmend.report.words import printable

    table = quiet_table("Picture or prior", "Token")
    for column in ("with the picture", "with a grey one", "difference, nats"):
        table.add_column(column, justify="right")
    for one in found.answers:
        for token in one.tokens:
            change = f"{token.seen - token.grey:+.2f}"
            table.add_row(printable(token.text.strip()), likely(token.seen), likely(token.grey), change)
        table.add_section()
    return table


def _document(found: Diagnosis, shown: Sequence[Sheet], path: Path) -> dict[str, Any]:
    return {
        "page": str(path),
        "model": found.model,
        "edits": list(found.edits),
        "question": found.example.question,
        "said": found.said,
        "answers": [asdict(one) | {"seen": one.seen, "grey": one.grey} for one in found.answers],
        "share": {
            "seen": found.seen,
            "grey": found.grey,
            "prior": found.prior_share,
            "picture": 1 - found.prior_share,
        },
        "cause": None if found.cause is None else found.cause.to_json(),
        "modules": {one.method: one.to_json() for one in found.modules},
        "maps": [
            {
                "of": found.maps[sheet.row].title,
                "token": found.maps[sheet.row].token,
                "method": sheet.method,
                "layer": sheet.layer,
                "largest": sheet.largest,
                "floor": sheet.floor,
                "peak": list(sheet.peak),
                "file": str(path.parent / "figures" / sheet.name),
            }
            for sheet in shown
        ],
        "notes": list(found.notes),
    }
