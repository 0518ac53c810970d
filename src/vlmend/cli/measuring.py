"""What `bench` and `demo` share: editors measured on cases into a run folder, scores as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vlmend.cli.console import progress
from vlmend.runs import Run

if TYPE_CHECKING:
    from vlmend.data.records import EditCase
    from vlmend.editors.base import Editor
    from vlmend.evaluation.proof import Change, Proof
    from vlmend.evaluation.stats import Estimate
    from vlmend.models.vlm import VLM
    from vlmend.report.content import Kind, Report

__all__ = ["cases_table", "described", "measure", "quiet_table", "scores_table"]

SEED = 0


class EditorRun(Run):
    """One editor's part of a run: its records lie among those of the others, marked with its name."""

    def __init__(self, run: Run, editor: str) -> None:
        self.folder = run.folder
        self.records = [record for record in run.records if record["editor"] == editor]
        self._run = run
        self._editor = editor

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record of this editor to the whole run."""
        self._run.append({"editor": self._editor, **record})
        self.records.append(self._run.records[-1])

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Nothing: the whole run is finished when its last editor is."""

    def close(self) -> None:
        """Nothing: the whole run is closed by its owner."""


def measure(
    vlm: VLM, editors: Sequence[Editor], cases: Sequence[EditCase], folder: Path, *, max_new_tokens: int = 32
) -> tuple[Proof, ...]:
    """Measure every editor on every case; what a run in this folder has finished before is not done again.

    Raises:
        RunError: the folder holds a run of another model, other cases or other settings.
    """
    import torch

    from vlmend.evaluation.editing import Baseline, evaluate

    torch.manual_seed(SEED)
    baseline = Baseline(vlm.fingerprint)
    proofs: list[Proof] = []
    with Run(folder, _settings(vlm, editors, cases, max_new_tokens)) as run:
        for editor in editors:
            with progress(f"Editing and measuring: {editor.name}", len(cases)) as advance:
                proofs.append(
                    evaluate(
                        vlm,
                        editor,
                        cases,
                        max_new_tokens=max_new_tokens,
                        baseline=baseline,
                        run=EditorRun(run, editor.name),
                        progress=lambda _done, _all, advance=advance: advance(),
                    )
                )
        run.finish({proof.method: {"metrics": proof.metrics, **_cost(proof)} for proof in proofs})
    return tuple(proofs)


def _settings(vlm: VLM, editors: Sequence[Editor], cases: Sequence[EditCase], max_new_tokens: int) -> dict[str, Any]:
    """All that the records depend on."""
    from vlmend.editors.base import settings_of
    from vlmend.edits.edit import library_versions

    return {
        "model": vlm.name,
        "fingerprint": vlm.fingerprint,
        "cases": {"count": len(cases), "hash": _hash(cases)},
        "editors": {editor.name: settings_of(editor) for editor in editors},
        "max_new_tokens": max_new_tokens,
        "seed": SEED,
        "versions": library_versions(),
    }


def _hash(cases: Sequence[EditCase]) -> str:
    """Of what the cases ask and expect, in order; pictures count by file name, wherever they lie."""
    digest = hashlib.blake2b(digest_size=8)
    for case in cases:
        for example in (case.request, *(probe.example for probe in case.probes)):
            picture = example.image.name if isinstance(example.image, Path) else ""
            digest.update("\0".join((case.id, example.question, example.answer or "", picture)).encode())
    return digest.hexdigest()


def _cost(proof: Proof) -> dict[str, Any]:
    costs = proof.costs
    if not costs:
        return {}
    return {
        "edits": len(costs),
        "seconds_per_edit": sum(cost.seconds for cost in costs) / len(costs),
        "peak_mb": max(cost.peak_mb for cost in costs),
    }


def described(title: str, proofs: Sequence[Proof], cases: Sequence[EditCase], source: str, command: str) -> Report:
    """The report of a run."""
    import platform

    from vlmend.report import Report

    versions = {**proofs[0].versions, "Python": platform.python_version()}
    return Report(
        title=title,
        proofs=tuple(proofs),
        cases=tuple(cases),
        facts={
            "Cases": f"{len(cases)} from {source}",
            "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "Seed": str(SEED),
        },
        command=command,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def scores_table(proof: Proof) -> Table:
    """The metrics of one editor, before and after, for a terminal."""
    from vlmend.report.content import MEASURES, kind_of

    table = quiet_table(f"{proof.method}: before → after in per cent, 95 % interval", "", "n")
    for label in MEASURES.values():
        table.add_column(label, justify="right")
    for summary in proof.summary.values():
        kind = kind_of(summary.kind)
        cells = [_cell(getattr(summary, name), kind) for name in MEASURES]
        table.add_row(f"{kind.name} ({kind.short})", str(summary.n), *cells)
    return table


def _cell(change: Change, kind: Kind) -> Text:
    before = "" if kind.keeps else f"{_percent(change.before)} → "
    text = Text(before, "dim")
    text.append(_percent(change.after), "bold")
    if change.after.n:
        text.append(f"  [{100 * change.after.low:.0f}–{100 * change.after.high:.0f}]", "dim")
    return text


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.0f}" if estimate.n else "–"


def cases_table(report: Report) -> Table:
    """Case by case what the model says after the first editor's edit, and which probes are as they should be."""
    from vlmend.evaluation.proof import LABELS
    from vlmend.report.content import cards

    shown = cards(report)
    kinds = [kind for kind in LABELS if any(probe.kind == kind for card in shown for probe in card.probes)]
    table = quiet_table("The same questions after one edit each", "#", "Question", "Right", "The model says now")
    for label in ("Rel", *(LABELS[kind] for kind in kinds)):
        table.add_column(label, justify="center", no_wrap=True)
    for number, card in enumerate(shown, 1):
        marks = [
            Text(" ").join(_mark(probe.after[0].passed) for probe in card.probes if probe.kind == kind)
            for kind in kinds
        ]
        answers = (card.question, card.right, card.after[0].answer)
        table.add_row(str(number), *answers, _mark(card.after[0].passed), *marks)
    return table


def quiet_table(title: str, *columns: str) -> Table:
    """A table with few lines and these text columns."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _mark(passed: bool) -> Text:
    return Text("✓", "green") if passed else Text("✗", "red")
