"""LLaVA-Bench (Liu et al., NeurIPS 2023, arXiv 2304.08485): an answer against a text-only reference, by a judge.

The judge reads what the picture shows, the question, the reference answer (of a model that was told the same), then the
answer, and gives both a mark from 1 to 10. The score is the sum of the answers' marks over that of the references', per
cent; over 100 the judge likes the answers better. In the wild: 24 pictures, 60 questions; COCO: 30 and 90; conversation
(conv), detail and complex reasoning. Published numbers have ``gpt-4-0314`` as judge, temperature 0.2, and the prompts
of LLaVA's ``rule.json``, which may be given as a file.

| protocol | a reply whose first line is not two marks |
|---|---|
| ``llava-bench`` | is a failed rating, and no score |
| ``llava-bench-code`` | counts as -1 and -1 in both sums, as published |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vlmend.data.formats.llava_bench import read_rules
from vlmend.evaluation.judged.benchmark import Benchmark, JudgedRecord, JudgeProtocol, Measure
from vlmend.evaluation.judged.prompts import Prompt

__all__ = ["COCO", "WILD", "first_line", "published_first_line"]

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)")
_LOWEST, _HIGHEST = 1, 10

_TASK = """\
Two assistants answered a question about a picture. You do not see the picture; this is what it shows:

{context}

Question: {question}

First assistant:
{reference}
(end of the first assistant's answer)

Second assistant:
{answer}
(end of the second assistant's answer)

Give each assistant one mark from 1 to 10 for how helpful, relevant, accurate and detailed its answer is; 10 is best. \
Which answer comes first must make no difference. Write the two marks, the first assistant's first, with a space \
between them and nothing else in the first line of your reply; explain them from the second line on."""

_SYSTEM = "You compare answers carefully and without favour."
# What LLaVA's eval_gpt_review_bench.py (Apache-2.0) tells before its prompts.
_PUBLISHED_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."


def first_line(reply: str) -> Sequence[float]:
    """The numbers in the first line that has anything; none if one is not from 1 to 10."""
    lines = [line for line in reply.splitlines() if line.strip()]
    found = [float(one) for one in _NUMBER.findall(lines[0])] if lines else []
    return found if all(_LOWEST <= one <= _HIGHEST for one in found) else []


def published_first_line(reply: str) -> Sequence[float]:
    """The first line if it is two numbers with one space or comma between them, whatever they are."""
    parts = reply.split("\n")[0].replace(",", " ").split(" ")
    try:
        return [float(one) for one in parts] if len(parts) == 2 else []
    except ValueError:
        return []


def _rules(path: Path, *, wild: bool) -> Prompt:
    """The published layout around the published prompts."""
    texts = {
        kind: (
            f"[Context]\n{{context}}\n\n[Question]\n{{question}}\n\n"
            f"[{role} 1]\n{{reference}}\n\n[End of {role} 1]\n\n[{role} 2]\n{{answer}}\n\n[End of {role} 2]\n\n"
            f"[System]\n{text}\n\n"
        )
        for kind, (role, text) in read_rules(path, wild=wild).items()
    }
    return Prompt(path.name, texts, _PUBLISHED_SYSTEM)


def _reference(one: JudgedRecord) -> float:
    return one.mean(lambda marks: marks[0])


def _candidate(one: JudgedRecord) -> float:
    return one.mean(lambda marks: marks[1])


_PROTOCOLS = (
    JudgeProtocol("llava-bench", "1", first_line, None, "It is a failed rating, and no score."),
    JudgeProtocol("llava-bench-code", "1", published_first_line, (-1.0, -1.0), "It counts as -1 in both sums."),
)


def _benchmark(name: str, *, wild: bool) -> Benchmark:
    return Benchmark(
        name=name,
        prompt=Prompt("vlmend", {"": _TASK}, _SYSTEM),
        own_prompt=partial(_rules, wild=wild),
        protocols={one.name: one for one in _PROTOCOLS},
        count=2,
        measures={
            "score": Measure(_candidate, _reference),
            "reference": Measure(_reference, unit="of 10"),
            "candidate": Measure(_candidate, unit="of 10"),
        },
        temperature=0.2,
        max_tokens=1024,
    )


WILD = _benchmark("llava-bench", wild=True)
COCO = _benchmark("llava-bench-coco", wild=False)
