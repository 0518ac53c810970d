"""`vlmend bench`, killed again and again at any moment, ends as a run that nobody disturbed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vlmend
from launching import WAIT, wait_until

CASES = Path(vlmend.__file__).parent / "world" / "demo_cases" / "evqa_eval.json"
EDITORS = "ft,visual-delta"
SETTINGS = (
    "--set",
    "ft.steps=3",
    "--set",
    "visual-delta.steps=2",
    "--set",
    "visual-delta.keep_weight=0",
    "--max-new-tokens",
    "4",
)
LIMIT = 8
ALL = 2 * LIMIT  # an editor and a case have a record
KILLS = {"start": 6, "records": 8, "report": 6}


def bench(out: Path) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    words = ["bench", "demo", CASES, "--limit", LIMIT, "--editors", EDITORS, *SETTINGS, "--out", out]
    command = [sys.executable, "-c", "from vlmend.cli import main; main()", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines(out: Path) -> int:
    """How many records there are."""
    path = out / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def changed(path: Path) -> float:
    """When a file was last written; 0 if there is none."""
    return path.stat().st_mtime if path.exists() else 0.0


@dataclass(frozen=True)
class Timing:
    """How long an undisturbed run takes to its first record, from the first to the last, and from there to its end."""

    start: float
    records: float
    report: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Timing]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    process = bench(out)
    start = wait_until(process, lambda: lines(out) > 0)
    records = wait_until(process, lambda: changed(out / "metrics.json") > 0)
    done = time.monotonic()
    assert process.wait(WAIT) == 0
    return out, Timing(start, records, time.monotonic() - done)


def killed(out: Path, phase: str, most: float, dice: random.Random) -> bool:
    """Start the command and kill it at a random moment of a phase; whether it was still at work then."""
    began, before = time.time(), lines(out)
    reached = {
        "start": lambda: True,
        "records": lambda: lines(out) > min(before, ALL - 1),
        "report": lambda: changed(out / "metrics.json") >= began,
    }
    process = bench(out)
    wait_until(process, reached[phase])
    time.sleep(dice.uniform(0, most))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def records(out: Path) -> set[str]:
    """All that was measured, without what differs from run to run."""
    found = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert len(found) == ALL
    return {json.dumps(without_cost(record), sort_keys=True) for record in found}


def metrics(out: Path) -> Any:
    return without_cost(json.loads((out / "metrics.json").read_text()))


def without_cost(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_cost(one) for key, one in value.items() if key not in ("seconds", "peak_mb")}
    return [without_cost(one) for one in value] if isinstance(value, list) else value


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_killed_at_twenty_moments(undisturbed: tuple[Path, Timing], tmp_path: Path, seed: int) -> None:
    """Killed before its next record, while records are written, and during the report; started again each time."""
    whole, timing = undisturbed
    dice, out = random.Random(seed), tmp_path / "run"
    most = {"start": timing.start, "records": timing.records / ALL, "report": timing.report}
    early = ["start"] * KILLS["start"] + ["records"] * KILLS["records"]
    dice.shuffle(early)
    kills, finished = 0, 0
    for phase in early + ["report"] * KILLS["report"]:
        while not killed(out, phase, most[phase], dice):
            finished += 1
            most[phase] *= 0.7  # the machine has become faster than it was when the phase was timed
            assert finished < 30
        kills += 1
        assert lines(out) <= ALL
    assert kills == 20
    assert bench(out).wait(WAIT) == 0
    assert records(out) == records(whole)
    assert metrics(out) == metrics(whole)
    assert files(out) == files(whole)
    for path in (out, whole):
        assert (path / "report.html").read_text().rstrip().endswith("</html>")
