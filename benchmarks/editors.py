"""What editors are held to, each figure beside its bound; leaves with 1 if one is missed. See README.md beside this.

`mend.py` and `ike.py` as they are, and thousands of single edits in closed form on the demo model, each made, scored
before and after on its probes without free answers, and undone, in two processes; making their cases is not timed.
Fewer `--edits` only show that it runs.

    python benchmarks/editors.py [--only mend|ike|closed-form] [--edits 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SEED = 9
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)


@dataclass(frozen=True)
class Figure:
    """What was measured, and its bound: from above, or from below (``least``)."""

    what: str
    value: float
    bound: float
    least: bool = False

    @property
    def kept(self) -> bool:
        return self.value >= self.bound if self.least else self.value <= self.bound


def main() -> None:
    given = argparse.ArgumentParser(description="What editors are held to.")
    given.add_argument("--only", choices=CHECKS)
    given.add_argument("--edits", type=int, default=2000, help="in closed form")
    wanted = given.parse_args()
    figures = [one for name in ([wanted.only] if wanted.only else CHECKS) for one in CHECKS[name](wanted.edits)]
    width = max(len(one.what) for one in figures)
    print(f"{'':{width}}  measured  bound")
    for one in figures:
        bound = f"{'≥' if one.least else '≤'} {one.bound:g}"
        print(f"{one.what:{width}}  {one.value:>8.3g}  {bound:<8}{'' if one.kept else 'MISSED'}".rstrip())
    sys.exit(not all(one.kept for one in figures))


def mend(_edits: int) -> list[Figure]:
    """EasyEdit's takes 8.3 CPU s for the same."""
    took = benchmark("mend.py")
    return [
        Figure("mend: one edit with its five probes, CPU s at 90 GFLOP/s", took["cpu_s_at_90_gflop_per_s"], 4.8),
        Figure("mend: … peak memory in GB", took["peak_mb"] * 2**20 / 1e9, 1.5),
    ]


def ike(_edits: int) -> list[Figure]:
    """Faster than with every row whole, and the same logits to rounding."""
    took = benchmark("ike.py")
    return [
        Figure("ike: demonstrations run once, times every row whole", took["ratio"], 2.5, True),
        Figure("ike: … largest difference of logits", took["largest_difference_of_logits"], 1e-3),
    ]


def closed_form(edits: int) -> list[Figure]:
    """In under five minutes on two cores."""
    with tempfile.TemporaryDirectory() as folder:
        none = ("0", "0")
        sizes = ("--evqa", *none, "--eic", *none, "--supposed", "0", str(edits), "--seed", str(SEED))
        run("-m", "vlmend", "world", "build", "demo", *sizes, "--out", folder)
        cases = Path(folder) / "supposed_eval.jsonl"
        with cases.open(encoding="utf-8") as lines:
            count = sum(1 for _ in lines)
        if count < edits:
            raise SystemExit(f"the demo world gave {count} cases of the {edits} to be edited: ask for fewer")
        quick = ("--editors", "ultraedit", "--protocol", "legacy", "--max-new-tokens", "0")
        start = time.monotonic()
        run(
            *LAUNCH,
            "--main_process_port",
            free_port(),
            "-m",
            "vlmend",
            "bench",
            "demo",
            cases,
            *quick,
            "--out",
            f"{folder}/run",
        )
        seconds = time.monotonic() - start
    return [Figure(f"closed form: {count} single edits by ultraedit, scored, s in two processes", seconds, 300)]


CHECKS: Mapping[str, Callable[[int], list[Figure]]] = {"mend": mend, "ike": ike, "closed-form": closed_form}


def benchmark(file: str) -> dict[str, Any]:
    """The last line of another benchmark, in a process of its own, as it is run by hand."""
    return json.loads(run(HERE / file).splitlines()[-1])


def run(*words: object) -> str:
    """What Python prints, given these words; that it fails ends all."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


if __name__ == "__main__":
    main()
