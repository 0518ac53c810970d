"""MM-Vet (Yu et al., ICML 2024, arXiv 2308.02490): how much of the right answer an answer has, 0 to 1, by a judge.

218 questions that need six capabilities (rec, ocr, know, gen, spat, math), alone and together. The judge compares the
answer with the right one, in which ``<AND>`` joins what must all be said and ``<OR>`` what may be said instead; the
score is the mean. Published numbers have ``gpt-4-0613`` as judge, temperature 0, means of five runs, and the published
few-shot prompt, which may be given as a file: the questions' row follows it.

| protocol | a reply that is no number from 0 to 1 |
|---|---|
| ``mmvet`` | is a failed rating, and no score |
| ``mmvet-zero`` | counts as 0, as in the published evaluator after five tries; its first word must be the number |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from vlmend.data.questions import OpenQuestion
from vlmend.evaluation.judged.benchmark import Benchmark, JudgeProtocol, Measure
from vlmend.evaluation.judged.prompts import Prompt, prompt_of

__all__ = ["BENCHMARK", "first_word", "one_number"]

_NUMBER = re.compile(r"(?<![\w.,])-?\d+(?:\.\d+)?(?![\w]|\.\d)")

_TASK = """\
You are given a question about a picture that you do not see, the right answer, and an answer to be graded. Grade how \
much of the right answer the given answer has, from 0.0 (nothing of it, or something else) to 1.0 (all of it), in \
steps of 0.1. In the right answer, <AND> joins parts that must all be there, and <OR> joins answers of which one is \
enough. Other words, and more of them, are no fault as long as they do not contradict the right answer. \
Reply with the number alone.

Question: What is on the shelf?
Right answer: a vase <AND> two books
Given answer: There is a vase on it.
Grade: 0.3

Question: What does the clock say?
Right answer: ten past nine <OR> 9:10
Given answer: It is 9:10.
Grade: 1.0

Question: How many chairs are there?
Right answer: 4
Given answer: I can see five chairs.
Grade: 0.0

Question: {question}
Right answer: {reference}
Given answer: {answer}
Grade:"""

_ROW = "\n{question} | {reference} | {answer} | "
"""How the published evaluator puts a question behind its prompt."""


def one_number(reply: str) -> Sequence[float]:
    """Every different number in a reply; none if one is not from 0 to 1."""
    found = dict.fromkeys(map(float, _NUMBER.findall(reply)))
    return list(found) if all(0 <= one <= 1 for one in found) else []


def first_word(reply: str) -> Sequence[float]:
    """The number from 0 to 1 that a reply is up to its first space."""
    try:
        found = float(reply.split(" ")[0].strip())
    except ValueError:
        return []
    return [found] if 0 <= found <= 1 else []


def _shown(question: OpenQuestion) -> OpenQuestion:
    spaced = question.reference.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return replace(question, reference=re.sub(r" {2,}(<AND>|<OR>) {2,}", r" \1 ", spaced))


BENCHMARK = Benchmark(
    name="mmvet",
    prompt=Prompt("vlmend", {"": _TASK}),
    own_prompt=partial(prompt_of, ending=_ROW),
    protocols={
        one.name: one
        for one in (
            JudgeProtocol("mmvet", "1", one_number, None, "It is a failed rating, and no score."),
            JudgeProtocol("mmvet-zero", "1", first_word, (0.0,), "It counts as 0, as published."),
        )
    },
    count=1,
    measures={"score": Measure(lambda one: one.mean(lambda rating: rating[0]))},
    temperature=0.0,
    max_tokens=8,
    shown=_shown,
)
"""The published requests allow three tokens, which not every tokenizer can say a number in."""
