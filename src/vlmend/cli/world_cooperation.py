"""`vlmend world cooperation`: edits that have to work together."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmend.cli.arguments import (
    DeviceOption,
    EditorSettingOption,
    EditorsOption,
    ModelArgument,
    folder_option,
    load_model,
    make_editors,
)
from vlmend.cli.console import JsonFlag, progress, replying, working

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from vlmend.evaluation.cooperation import Cooperation

__all__ = ["cooperation"]


def cooperation(
    model: ModelArgument = "demo",
    editors: EditorsOption = "ft,lora,ultraedit",
    setting: EditorSettingOption = None,
    out: Annotated[Path, folder_option("The run folder; a run that was cut short there goes on.")] = Path(
        "runs/cooperation"
    ),
    n: Annotated[int, typer.Option(min=1, help="Pairs of edits.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the pairs.")] = 7,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Teach a flag's country and a fact of that country by one edit each, and ask for the fact by the flag."""
    with replying(as_json) as reply:
        from vlmend.cli.measuring import run_settings
        from vlmend.data.identity import identity
        from vlmend.evaluation.cooperation import cooperate, summed
        from vlmend.evaluation.proof import without_nan
        from vlmend.evaluation.protocols import DEFAULT
        from vlmend.runs import Run
        from vlmend.world.pairs import pairs_of

        methods = make_editors(editors, setting or ())
        vlm = load_model(model, device)
        with working(f"Looking for flags that {model} does not know"):
            pairs = pairs_of(vlm, n, seed=seed)
        cases = [case for pair in pairs for case in (pair.seen, pair.known)]
        settings = run_settings(vlm, methods, cases, DEFAULT, 32) | {"pairs": identity(cases), "seed": seed}
        found: dict[str, list[Cooperation]] = {}
        with Run(out, settings) as run:
            for editor in methods:
                with progress(f"Pairs of edits by {editor.name}", len(pairs)) as advance:
                    log = run.part(editor=editor.name)
                    found[editor.name] = summed(cooperate(vlm, editor, pairs, log=log, progress=advance))
            document = {name: [without_nan(asdict(one)) for one in some] for name, some in found.items()}
            run.finish(document)
        reply.say(table(found, len(pairs)))
        reply.line(str(out))
        reply.document = {"run": str(out), "pairs": len(pairs), "seed": seed, "editors": document}


def table(found: Mapping[str, Sequence[Cooperation]], count: int) -> Table:
    """One line an editor and state."""
    from vlmend.cli.tables import quiet_table
    from vlmend.evaluation.cooperation import STATES
    from vlmend.report.words import bounds, percent

    shown = quiet_table(f"Answers as the edits in force have them, of {count} pairs: per cent [95 % interval]", "", "")
    for column in ("picture → name", "name → fact", "picture → fact", "… by the name"):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, some in found.items():
        for one in some:
            if one.state == "unedited":
                continue
            cells = [
                f"{percent(e)} [{bounds(e)}]" if e.n else "–" for e in (one.seen, one.known, one.outright, one.stepwise)
            ]
            shown.add_row(name, STATES[one.state], *cells)
        shown.add_section()
    return shown
