"""`vlmend ask`: one question about one picture."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from vlmend.cli.arguments import DeviceOption, ModelArgument, load_model
from vlmend.cli.console import JsonFlag, replying, working

__all__ = ["ask"]


def ask(
    model: ModelArgument,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    edit: Annotated[list[Path] | None, typer.Option(help="A saved edit to put in force; may be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Ask a model one question about a picture, with or without saved edits."""
    with replying(as_json) as reply:
        from vlmend.edits.edit import Edit, stacked
        from vlmend.models.pictures import open_picture
        from vlmend.report.words import printable

        picture = open_picture(image)
        edits = [Edit.load(folder) for folder in edit or ()]
        vlm = load_model(model, device)
        with working("Answering"), vlm.using(stacked(edits) if edits else None):
            start = perf_counter()
            answer = vlm.answer(picture, question, max_new_tokens=max_new_tokens)
            seconds = perf_counter() - start
        reply.line(printable(answer))
        reply.document = {
            "model": vlm.name,
            "edits": [one.id for one in edits],
            "image": str(image),
            "question": question,
            "answer": answer,
            "seconds": round(seconds, 3),
        }
