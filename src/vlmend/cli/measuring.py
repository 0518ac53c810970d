"""What `bench` and `demo` share: editors measured on cases into a run folder, and the report of that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmend.cli.console import progress
from vlmend.data.identity import identity
from vlmend.ranks import ALONE, Ranks
from vlmend.runs import Run

if TYPE_CHECKING:
    from vlmend.data.records import EditCase
    from vlmend.editors.base import Editor
    from vlmend.evaluation.proof import Proof
    from vlmend.evaluation.protocols import Protocol
    from vlmend.models.vlm import VLM
    from vlmend.report import Report

__all__ = ["described", "measure", "measure_apart", "run_settings"]

SEED = 0


def measure(
    vlm: VLM,
    editors: Sequence[Editor],
    cases: Sequence[EditCase],
    folder: Path,
    *,
    protocol: Protocol | None = None,
    max_new_tokens: int = 32,
    at_once: bool = False,
    ranks: Ranks = ALONE,
) -> tuple[Proof, ...]:
    """Measure every editor on every case, edited alone or all ``at_once``; what a run in this folder has finished
    before is not done again. Of several processes (``ranks``) each measures its share of the cases; when all have,
    another call, alone, finds all records.

    Raises:
        RunError: the folder holds a run of another model, other cases or other settings.
    """
    import torch

    from vlmend.evaluation.editing import at_once_by, compare
    from vlmend.evaluation.protocols import DEFAULT

    torch.manual_seed(SEED)
    way = protocol or DEFAULT
    settings = run_settings(vlm, editors, cases, way, max_new_tokens) | ({"at_once": True} if at_once else {})
    mine = ranks.share(cases)
    with Run(folder, settings, ranks) as run:
        logs = [run.part(editor=editor.name) for editor in editors]
        ids = {case.id for case in mine}
        done = sum(record["case"] in ids for log in logs for record in log.records)
        with progress("Editing and measuring", len(editors) * len(mine), done=done) as advance:
            proofs = compare(
                vlm,
                [at_once_by(vlm, editor, cases, way) for editor in editors] if at_once else editors,
                mine,
                protocol=way,
                max_new_tokens=max_new_tokens,
                runs=logs,
                progress=lambda _done, _all: advance(),
            )
        if ranks.count == 1:
            run.finish({proof.method: _result(proof) for proof in proofs})
    return proofs


def measure_apart(
    vlm: VLM, editors: Sequence[Editor], cases: Sequence[EditCase], folder: Path, max_new_tokens: int
) -> tuple[Proof, ...]:
    """As `measure`, each editor into a run of its own below ``folder``, so that others can be added to it; what they
    share is still computed once.

    Raises:
        RunError: such a run is of another model, other cases or other settings.
    """
    import torch

    from vlmend.evaluation.editing import compare
    from vlmend.evaluation.protocols import DEFAULT

    torch.manual_seed(SEED)
    with ExitStack() as opened:
        # Closed without a word of each: there are many.
        runs = [
            opened.enter_context(
                closing(Run(folder / one.name, run_settings(vlm, [one], cases, DEFAULT, max_new_tokens)))
            )
            for one in editors
        ]
        done = sum(len(run.records) for run in runs)
        with progress("Editing and measuring", len(editors) * len(cases), done=done) as advance:
            proofs = compare(
                vlm,
                editors,
                cases,
                max_new_tokens=max_new_tokens,
                runs=runs,
                progress=lambda _done, _all: advance(),
            )
        for run, proof in zip(runs, proofs, strict=True):
            run.finish({proof.method: _result(proof)})
    return proofs


def _result(proof: Proof) -> dict[str, Any]:
    from vlmend.report.content import cost_of

    return {"metrics": proof.metrics, "apart": proof.metrics_apart, "cost": asdict(cost_of(proof))}


def run_settings(
    vlm: VLM, editors: Sequence[Editor], cases: Sequence[EditCase], protocol: Protocol, max_new_tokens: int
) -> dict[str, Any]:
    """All that the records depend on."""
    from vlmend.editors.base import settings_of
    from vlmend.edits.edit import library_versions

    return {
        "model": vlm.name,
        "fingerprint": vlm.fingerprint,
        "cases": identity(cases),
        "editors": {editor.name: settings_of(editor) for editor in editors},
        "protocol": protocol.name,
        "max_new_tokens": max_new_tokens,
        "seed": SEED,
        "versions": library_versions(),
        **({"edits": list(vlm.active_edits)} if vlm.active_edits else {}),
    }


def described(
    title: str,
    proofs: Sequence[Proof],
    cases: Sequence[EditCase],
    source: str,
    command: str,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Report:
    """The report of a run."""
    import platform

    from vlmend.report import Report

    versions = {**proofs[0].versions, "Python": platform.python_version()}
    return Report(
        title=title,
        proofs=tuple(proofs),
        cases=tuple(cases),
        groups=groups or {},
        facts={
            "Cases": f"{len(cases)} from {source}",
            "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            "Protocol": proofs[0].protocol.name,
            "Seed": str(SEED),
        },
        command=command,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
