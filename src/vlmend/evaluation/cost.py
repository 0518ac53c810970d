"""What something costs: seconds and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Cost", "measured"]

_MB = 2**20


@dataclass(slots=True)
class Cost:
    """Filled when the measured block ends.

    Attributes:
        seconds: wall time.
        peak_mb: largest memory during the block, in MiB: the device's allocations, on a CPU the whole process.
    """

    seconds: float = 0.0
    peak_mb: float = 0.0


@contextmanager
def measured(device: torch.device) -> Generator[Cost, None, None]:
    """Measure a block that works on ``device``."""
    cost = Cost()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_peak()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        if on_gpu:
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - start
        cost.peak_mb = torch.cuda.max_memory_allocated(device) / _MB if on_gpu else _process_peak()


def _reset_peak() -> None:
    """Let Linux forget the process's peak so far; elsewhere the peak is that since its start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _process_peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / _MB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MB if sys.platform == "darwin" else peak * 1024 / _MB
