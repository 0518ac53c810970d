"""Answers judged by a language model: MM-Vet, LLaVA-Bench (in the wild; COCO) and MMHal-Bench.

The judge never sees a picture: it compares an answer with a reference. Any OpenAI-compatible endpoint will do; what it
replies is recorded and replayed. A result names the protocol, its prompt, the judge, the version that the endpoint says
it has, and the temperature; results that differ in any of these are not compared. An answer that could not be judged
has no score, and is counted apart: a failed instrument is not a zero.
"""

from __future__ import annotations

from vlmend.evaluation.judged.benchmark import Benchmark, JudgedResult, judged
from vlmend.evaluation.judged.comparing import compared, read_result
from vlmend.evaluation.judged.judge import Judge
from vlmend.evaluation.judged.replies import Replies
from vlmend.evaluation.judged.shelf import BENCHMARKS

__all__ = ["BENCHMARKS", "Benchmark", "Judge", "JudgedResult", "Replies", "compared", "judged", "read_result"]
