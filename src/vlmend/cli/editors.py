"""`vlmend editors`: which editors there are, and what can be set of each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vlmend.cli.console import JsonFlag, replying
from vlmend.cli.tables import quiet_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from vlmend.editors.listing import Setting

__all__ = ["editors"]


def editors(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="List this editor's settings.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the editors, or the settings of one with their defaults."""
    with replying(as_json) as reply:
        from vlmend.editors.listing import listed, settings_of_editor, settings_of_training

        known = {one.name: one for one in listed()}
        if name is None:
            table = quiet_table("Editors; of one's settings: vlmend editors NAME", "Name", "What it does", "Training")
            for one in known.values():
                table.add_row(one.name, f"control: {one.about}" if one.control else one.about, "needed" * one.trained)
            reply.say(table)
            reply.document = {"editors": [asdict(one) for one in known.values()]}
            return
        own, training = settings_of_editor(name), settings_of_training(name)
        reply.line(f"{name}: {known[name].about}")
        tables = {
            "Settings: --set NAME=VALUE, of several editors --set EDITOR.NAME=VALUE": own,
            f"Settings of its training: vlmend train-editor {name}": training,
        }
        for title, settings in tables.items():
            if settings:
                reply.say("", _table(title, settings))
        reply.document = {
            **asdict(known[name]),
            "settings": [asdict(one) for one in own],
            "training": [asdict(one) for one in training],
        }


def _table(title: str, settings: Sequence[Setting]) -> Table:
    table = quiet_table(title, "Name", "Default", "What it is")
    for one in settings:
        table.add_row(one.name, one.default, f"{one.about.rstrip('.')} ({one.takes})")
    return table
