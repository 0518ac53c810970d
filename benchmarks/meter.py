"""What the benchmarks share: CPU seconds, peak memory, the GFLOP of a piece of work, and the limit to hold them to."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from vlmend.models.heap import keep_freed_memory

keep_freed_memory()  # as the command line does, for both sides of every comparison

T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """Process CPU seconds of one call, and the process's peak memory after it in MiB."""

    seconds: float
    peak_mb: float


def timed(work: Callable[[], T]) -> tuple[T, Timed]:
    """Do it once."""
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    return result, Timed(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def gflop(work: Callable[[], Any]) -> float:
    """Matrix products and attention of one more call, forward and backward, in units of 1e9 multiply-adds times two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def matmul_limit(shape: tuple[int, int, int] = (600, 512, 1376), repeats: int = 40) -> float:
    """The best GFLOP per CPU second that a matrix product of this shape reaches now."""
    rows, inner, columns = shape
    one, other = torch.randn(rows, inner), torch.randn(inner, columns)
    best = min(timed(lambda: one @ other)[1].seconds for _ in range(repeats))
    return 2 * rows * inner * columns / best / 1e9


def report(**figures: Any) -> None:
    """The last line."""
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({**rounded, "threads": torch.get_num_threads(), "torch": torch.__version__}))
