"""The judged benchmarks by name."""

from __future__ import annotations

from collections.abc import Mapping

from vlmend.evaluation.judged import llava_bench, mmhal, mmvet
from vlmend.evaluation.judged.benchmark import Benchmark

__all__ = ["BENCHMARKS"]

BENCHMARKS: Mapping[str, Benchmark] = {
    one.name: one for one in (mmvet.BENCHMARK, llava_bench.WILD, llava_bench.COCO, mmhal.BENCHMARK)
}
"""Name -> benchmark."""
