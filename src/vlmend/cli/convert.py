"""`vlmend convert`: checkpoints that transformers does not read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlmend.cli.arguments import folder_option
from vlmend.cli.console import JsonFlag, replying, working

__all__ = ["app"]

app = typer.Typer(
    help="Make folders that transformers reads out of checkpoints that it does not.", no_args_is_help=True
)


@app.callback()
def group() -> None:
    """Folders that transformers reads, out of checkpoints that it does not."""


@app.command()
def minigpt4(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="All it comes in: eva_vit_g.pth, BLIP-2's Q-Former, MiniGPT-4's own."),
    ],
    language: Annotated[str, typer.Option(help="Folder or hub id of its Vicuna or Llama-2.")],
    out: Annotated[Path, folder_option("The folder to write.")],
    prompt: Annotated[str, typer.Option(help="Whose wording prompts have: vicuna or llama-2.")] = "vicuna",
    as_json: JsonFlag = False,
) -> None:
    """MiniGPT-4, as a BLIP-2 with a Llama."""
    with replying(as_json) as reply:
        from vlmend.models.convert.minigpt4 import convert

        with working("Converting"):
            folder = convert(files, language, out, prompt=prompt)
        reply.line(str(folder))
        reply.document = {"model": str(folder)}
