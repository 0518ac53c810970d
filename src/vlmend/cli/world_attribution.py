"""`vlmend world attribution`: whether attributions are true, tried where the truth is known."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vlmend.cli.arguments import DeviceOption, ModelArgument, load_model
from vlmend.cli.console import JsonFlag, replying, working
from vlmend.cli.tables import quiet_table
from vlmend.errors import VlmendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from vlmend.world.attribution import Finding

__all__ = ["attribution"]


def attribution(
    model: ModelArgument = "demo",
    n: Annotated[int, typer.Option(min=4, help="Cases to report on; costly sections take a part.")] = 200,
    validation: Annotated[int, typer.Option(min=4, help="Other cases, to choose layers and thresholds on.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 9_100_001,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Only these sections: pointing, weights, removal, agreement, errors, editing."
        ),
    ] = None,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Try attributions where the truth is known: whether maps point at the thing and show what counts, which kind
    of error it is, and whether the layer that explains is the one to edit."""
    with replying(as_json) as reply:
        from vlmend.world.attribution import SECTIONS, Trial, tried

        sections = only.split(",") if only else list(SECTIONS)
        if unknown := [one for one in sections if one not in SECTIONS]:
            raise VlmendError(f"no section '{unknown[0]}' in the trial; there are: {', '.join(SECTIONS)}")
        vlm = load_model(model, device)
        with working("Trying"):
            found = tried(vlm, Trial(n, validation, seed), sections)
        reply.say(*(_table(name, some) for name, some in found.items()))
        reply.document = {
            "model": model,
            "fingerprint": vlm.fingerprint,
            "n": n,
            "validation": validation,
            "seed": seed,
            "sections": {name: [_plain(one) for one in some] for name, some in found.items()},
        }


def _plain(one: Finding) -> dict[str, object]:
    """As JSON data; a mean of nothing is null."""
    estimate = {name: None if value != value else value for name, value in asdict(one.estimate).items()}
    return {"of": one.of, "measured": one.measured, "note": one.note, **estimate}


def _table(name: str, found: Sequence[Finding]) -> Table:
    table = quiet_table(name, "", "Measured")
    for column in ("n", "value", "95 % interval"):
        table.add_column(column, justify="right")
    notes: dict[str, None] = {}
    for one in found:
        e = one.estimate
        table.add_row(one.of, one.measured, str(e.n), f"{e.mean:.3f}", f"{e.low:.3f} to {e.high:.3f}")
        notes |= {one.note: None} if one.note else {}
    table.caption, table.caption_justify = "; ".join(notes) or None, "left"
    return table
