"""`vlmend demo`: the whole loop on the bundled model, in two minutes."""

from __future__ import annotations

import shlex
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import DeviceOption, folder_option, load_model, make_editor, read_cases, typed_device
from vlmend.cli.console import JsonFlag, progress, replying, working
from vlmend.cli.measuring import described, measure
from vlmend.cli.tables import cases_table, overview_table, quiet_table, scores_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from vlmend.data.records import EditCase

__all__ = ["demo"]

EDITORS: Mapping[str, Mapping[str, Any]] = {
    "ft": {"lr": 3e-3, "stop_loss": 0.02},  # for five million parameters; the editor's own defaults are for billions
    "lora": {},
    "visual-delta": {},
    "null": {},
    "parrot": {},
    "image-blind": {},
    "oracle": {},
}
"""What is compared: editors, the first shown case by case, and controls, which say what a score is worth."""

CAPTIONS_SHARE = 4
"""One in so many of the demo's cases is a caption; the others are questions."""


def demo(
    out: Annotated[Path | None, folder_option("The run folder; a new one in runs/ by default.")] = None,
    count: Annotated[int, typer.Option("--cases", min=1, help="How many wrong answers to mend.")] = 12,
    model: Annotated[str, typer.Option(help="Another model than the bundled one.")] = "demo",
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Mend a dozen wrong answers of the bundled model with several editors, and show what that changed."""
    with replying(as_json) as reply:
        cases = demo_cases(count)
        vlm = load_model(model, device)
        with working("Asking the model"):
            said = vlm.generate(vlm.prepare([case.request for case in cases]))
        reply.say(_wrong_answers(cases, said))
        from vlmend.report.html import headlines

        folder = out or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
        proofs = measure(vlm, [make_editor(name, settings) for name, settings in EDITORS.items()], cases, folder)
        command = ["vlmend", "demo", "--cases", str(len(cases))]
        command += [] if model == "demo" else ["--model", model]
        command += typed_device(device)
        command += [] if out is None else ["--out", str(out)]
        title = f"{len(cases)} wrong answers of {Path(vlm.name).name}, mended one by one"
        report = described(title, proofs, cases, "the bundled demo cases", shlex.join(command))
        reply.say(cases_table(report), scores_table(proofs[0]), overview_table(proofs), *headlines(proofs), "")
        with progress("Drawing", len(cases)) as advance:
            from vlmend.report.folder import fill

            path = fill(folder, report, case_pictures=True, on_picture=advance)
        reply.say(f"One picture per case: {folder / 'figures'}", "Report:")
        reply.line(str(path))
        reply.document = {
            "run": str(folder),
            "report": str(path),
            "cases": len(cases),
            "editors": {proof.method: proof.metrics for proof in proofs},
        }


def demo_cases(count: int) -> list[EditCase]:
    """Bundled cases made of the bundled model's own errors: mostly questions, some captions."""
    folder = Path(str(resources.files("vlmend.world"))) / "demo_cases"
    captions = count // CAPTIONS_SHARE
    return [
        *_spread(read_cases(folder / "evqa_eval.jsonl"), count - captions),
        *_spread(read_cases(folder / "eic_eval.jsonl"), captions),
    ]


def _spread(cases: Sequence[EditCase], count: int) -> list[EditCase]:
    """So many of the cases, evenly over the file."""
    count = min(count, len(cases))
    return [cases[place * len(cases) // count] for place in range(count)]


def _wrong_answers(cases: Sequence[EditCase], said: Sequence[str]) -> Table:
    from vlmend.report.words import printable

    table = quiet_table("Wrong answers", "#", "Question", "Right", "The model says")
    for number, (case, answer) in enumerate(zip(cases, said, strict=True), 1):
        table.add_row(str(number), case.request.question, case.request.answer, printable(answer))
    return table
