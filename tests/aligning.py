"""`vlmend align` as a process of its own, short, and what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUICK = ("rank=2", "dropout=0", "lr=5e-3", "steps=3", "warmup=0", "schedule=constant", "log_every=1", "save_every=2")
WAIT = 300.0


def sets(*more: str) -> list[str]:
    """Settings as words; later ones hold."""
    return [word for setting in (*QUICK, *more) for word in ("--set", setting)]


def trained(
    model: object, pairs: Path, out: Path, *runs: str, more: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    """The training, begun; ``runs`` are python's words that run the command line."""
    words = ["align", model, pairs, "--out", out, *sets(*more)]
    command = [sys.executable, *runs, *map(str, words)]
    around = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> None:
    """Wait for it; it must end well."""
    _, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors


def settings(out: Path) -> dict[str, Any]:
    """Those of the run."""
    return json.loads((out / "run.json").read_text())


def losses(out: Path) -> dict[int, float]:
    """By the step."""
    found = [json.loads(line) for path in out.glob("records*.jsonl") for line in path.read_text().splitlines()]
    return {record["step"]: record["loss"] for record in found}
