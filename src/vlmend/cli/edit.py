"""`vlmend edit`: fit edits and save them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import (
    CasesArgument,
    DeviceOption,
    LimitOption,
    MaxNewTokensOption,
    ModelArgument,
    SkipMissingOption,
    check_askable,
    folder_option,
    load_model,
    make_editor,
    read_cases,
    read_settings,
)
from vlmend.cli.console import JsonFlag, progress, replying
from vlmend.cli.tables import quiet_table
from vlmend.words import counted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from rich.table import Table

    from vlmend.data.records import EditCase
    from vlmend.editors.base import Editor
    from vlmend.models.vlm import VLM

__all__ = ["edit"]


def edit(
    model: ModelArgument,
    cases: CasesArgument,
    out: Annotated[Path, folder_option("Folder for the edits.")],
    editor: Annotated[str, typer.Option(help="Which editor makes them, by name: `vlmend editors` lists them.")] = "ft",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of it, as `vlmend editors NAME` lists them; may be repeated."
        ),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Fit one edit for all cases, saved in OUT itself.")
    ] = False,
    limit: LimitOption = None,
    skip_missing: SkipMissingOption = False,
    max_new_tokens: MaxNewTokensOption = 32,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Fit edits for the cases in a file and save them: one per case, or one for all. Earlier ones are replaced."""
    with replying(as_json) as reply:
        method = make_editor(editor, read_settings(setting or ()))
        wanted = read_cases(cases, limit, skip_missing=skip_missing)
        vlm = load_model(model, device)
        check_askable(vlm, wanted)
        groups = {out: wanted} if together else {out / case.id: [case] for case in wanted}
        replaced = sum((folder / "edit.json").exists() for folder in groups)
        made: list[dict[str, Any]] = []
        with progress("Editing", len(groups)) as advance, _noted(made, out):
            for folder, group in groups.items():
                made += _fit_and_save(vlm, method, group, folder, max_new_tokens)
                advance()
        reply.say(_table(made))
        if replaced:
            reply.line(f"Replaced what was there: {counted(replaced, 'edit')}.")
        if missed := sum(not one["holds"] for one in made):
            reply.line(
                f"{missed} of {len(made)} do not hold: the model says something else. Another editor may do better, or "
                "a stronger setting of this one (of ft: --set lr=3e-3)."
            )
        reply.document = {"model": vlm.name, "editor": editor, "edits": made}


@contextmanager
def _noted(made: Sequence[dict[str, Any]], out: Path) -> Generator[None]:
    """Within the block an error, or whatever breaks it off, is told what has been saved."""
    try:
        yield
    except BaseException as error:
        if made:
            error.add_note(
                f"the edits for {counted(len(made), 'case')} are saved in {out}, and the same command makes them anew"
            )
        raise


def _fit_and_save(
    vlm: VLM, method: Editor, cases: Sequence[EditCase], folder: Path, max_new_tokens: int
) -> Iterator[dict[str, Any]]:
    from vlmend.evaluation.text import matches

    prepared = vlm.prepare([case.request for case in cases])
    before = vlm.generate(prepared, max_new_tokens=max_new_tokens)
    made = method.fit(vlm, cases)
    made.save(folder)
    after = vlm.generate(prepared, made, max_new_tokens=max_new_tokens)
    for case, said, says in zip(cases, before, after, strict=True):
        yield {
            "case": case.id,
            "question": case.request.question,
            "before": said,
            "target": case.request.answer,
            "after": says,
            "holds": matches(says, case.request.accepted),
            "edit": made.id,
            "folder": str(folder),
        }


def _table(made: Sequence[dict[str, Any]]) -> Table:
    from vlmend.report.words import printable

    table = quiet_table("Edits", "Question", "Said", "Right", "Says after the edit", "Holds", "Saved in")
    for one in made:
        answers = (one["question"], one["before"], one["target"], one["after"])
        table.add_row(*map(printable, answers), "yes" if one["holds"] else "NO", one["folder"])
    return table
