"""`vlmend edits`: look at saved edits, check them on a model, compare, stack and merge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import DeviceOption, MaxNewTokensOption, ModelArgument, folder_option, load_model
from vlmend.cli.console import JsonFlag, replying, working
from vlmend.cli.tables import quiet_table
from vlmend.errors import EditError

if TYPE_CHECKING:
    from vlmend.edits.edit import Edit

app = typer.Typer(help="Saved edits: list, show, verify, diff, stack, merge.", no_args_is_help=True)

FolderArgument = Annotated[Path, typer.Argument(metavar="EDIT", help="The folder of a saved edit.")]
FoldersArgument = Annotated[list[Path], typer.Argument(metavar="EDIT...", help="Folders of saved edits, in order.")]
UNMET = 1
_SHOWN = 4  # tensors of an operation


@app.command("list")
def list_edits(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where edits are, however deep.")],
    as_json: JsonFlag = False,
) -> None:
    """List the edits in a folder."""
    with replying(as_json) as reply:
        found = {path.parent: _load(path.parent) for path in sorted(folder.rglob("edit.json"))}
        if not found:
            raise EditError(f"{folder} holds no edit")
        table = quiet_table("Edits", "Folder", "Method", "Model", "Question", "Target")
        for path, edit in found.items():
            first = edit.requests[0] if edit.requests else None
            more = f" (+{len(edit.requests) - 1})" if len(edit.requests) > 1 else ""
            asked = (first.question + more, first.target) if first else ("", "")
            table.add_row(str(path.relative_to(folder)), edit.method, Path(edit.model).name, *asked)
        reply.say(table)
        reply.document = {"edits": [{"folder": str(path)} | _about(edit) for path, edit in found.items()]}


@app.command()
def show(folder: FolderArgument, as_json: JsonFlag = False) -> None:
    """Show what one edit is: its method, model, requests, operations and size."""
    with replying(as_json) as reply:
        edit = _load(folder)
        about = _about(edit)
        table = quiet_table(f"Edit {edit.id}", "", "")
        for key in ("method", "model", "base", "bytes"):
            table.add_row(key, str(about[key]))
        for key, values in (("fitted on", about["fitted_on"]), ("settings", _settings(about["settings"]))):
            if values:
                table.add_row(key, ", ".join(values))
        for what, choice in edit.chosen.items():
            table.add_row(f"chosen {what}", "; ".join(_reasons(choice)))
        for op in about["operations"]:
            table.add_row("operation", f"{op['kind']}: {_few(op['tensors'])}".removesuffix(": "))
            for text in op.get("words", ()):
                table.add_row("tells", text.strip())
        for request in edit.requests:
            table.add_row("request", f"{request.question} → {request.target}")
        reply.say(table)
        reply.document = about


@app.command()
def verify(
    model: ModelArgument,
    folders: FoldersArgument,
    max_new_tokens: MaxNewTokensOption = 32,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Ask a model the requests of edits again; exit code 1 if one does not hold."""
    with replying(as_json) as reply:
        from vlmend.evaluation.recheck import recheck

        edits = {folder: _load(folder) for folder in folders}
        vlm = load_model(model, device)
        with working("Asking"):
            found = {folder: recheck(vlm, edit, max_new_tokens=max_new_tokens) for folder, edit in edits.items()}
        table = quiet_table("Requests asked again", "Edit", "Question", "Right", "Without", "With the edit", "Holds")
        for folder, checks in found.items():
            for one in checks:
                answers = (one.request.target, one.before or "", one.after or "")
                table.add_row(folder.name, one.request.question, *answers, "yes" if one.holds else "NO")
        reply.say(table)
        for folder, one in ((folder, one) for folder, checks in found.items() for one in checks if one.problem):
            reply.line(f"{folder}: '{one.request.question}' was not asked: {one.problem}")
        holds = all(one.holds for checks in found.values() for one in checks)
        reply.document = {
            "model": vlm.name,
            "holds": holds,
            "edits": [
                {"folder": str(folder), "requests": [asdict(one) | {"holds": one.holds} for one in checks]}
                for folder, checks in found.items()
            ],
        }
    if not holds:
        raise typer.Exit(UNMET)


@app.command("diff")
def diff_edits(one: FolderArgument, other: FolderArgument, as_json: JsonFlag = False) -> None:
    """Compare two edits, tensor by tensor."""
    with replying(as_json) as reply:
        from vlmend.edits.compare import diff

        found = diff(_load(one), _load(other))
        table = quiet_table("Changes of weights", "Tensor", "First: norm", "Second: norm", "Cosine")
        for tensor in found.tensors:
            cosine = "" if tensor.cosine is None else f"{tensor.cosine:.3f}"
            table.add_row(tensor.name, *(f"{norm:.4g}" for norm in tensor.norms), cosine)
        for name in found.replaced:
            table.add_row(name, "replaced", "", "")
        reply.say(table)
        if not found.same_base:
            reply.line("They are for different models.")
        for name, others, only in zip(("first", "second"), found.others, found.only, strict=True):
            if others:
                reply.line(f"Other operations of the {name}: {', '.join(others)}")
            for request in only:
                reply.line(f"Only the {name}: {request.question} → {request.target}")
        reply.document = asdict(found)


@app.command()
def stack(
    folders: FoldersArgument,
    out: Annotated[Path, folder_option("Folder for the one edit.")],
    as_json: JsonFlag = False,
) -> None:
    """Put several edits of one model into one, in their order."""
    with replying(as_json) as reply:
        from vlmend.edits.edit import stacked

        edit = stacked([_load(folder) for folder in folders])
        edit.save(out)
        reply.line(str(out))
        reply.document = {"folder": str(out)} | _about(edit)


@app.command("merge")
def merge_edits(
    model: ModelArgument,
    folders: FoldersArgument,
    out: Annotated[Path, folder_option("Folder for the merged model.")],
    as_json: JsonFlag = False,
) -> None:
    """Write a model with edits folded into its weights, as a plain checkpoint in the weights' own type."""
    with replying(as_json) as reply:
        from vlmend.edits.merge import merge

        edits = [_load(folder) for folder in folders]
        vlm = load_model(model, dtype="auto")
        with working("Writing"):
            merge(vlm, edits, out)
        reply.line(str(out))
        reply.document = {"model": str(out), "edits": [edit.id for edit in edits]}


def _load(folder: Path) -> Edit:
    from vlmend.edits.edit import Edit

    return Edit.load(folder)


def _about(edit: Edit) -> dict[str, Any]:
    from vlmend.edits.packing import packed

    _, tensors = packed(edit.ops)
    return {
        "id": edit.id,
        "method": edit.method,
        "model": edit.model,
        "base": edit.base,
        "fitted_on": list(edit.fitted_on),
        "settings": dict(edit.settings),
        "chosen": dict(edit.chosen),
        "requests": [asdict(request) for request in edit.requests],
        "operations": [{"kind": op.kind, "tensors": _named(op)} | _worded(op) for op in edit.ops],
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def _settings(given: Mapping[str, Any]) -> list[str]:
    """As they are set: name=value, those of a part of the method behind its name."""
    found: list[str] = []
    for name, value in given.items():
        inner = _settings(value) if isinstance(value, dict) else []
        found += [f"{name}.{one}" for one in inner] or [f"{name}={value}"]
    return found


def _few(names: Sequence[str]) -> str:
    """The first names a line each, and how many more there are: `--json` has all."""
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "\n".join([*names[:_SHOWN], *more])


def _reasons(choice: Any) -> list[str]:
    """Why something was chosen, for all pictures or for each."""
    return [choice["why"]] if "why" in choice else [one["why"] for one in choice.values()]


def _named(op: Any) -> Sequence[str]:
    own = [f"{name} {tuple(tensor.shape)}" for name, tensor in op.tensors().items()]
    return own + [f"{one.kind} {name}" for one in op.inner for name in _named(one)]


def _worded(op: Any) -> dict[str, Any]:
    return {"words": list(op.words)} if op.words else {}
