"""MMHal-Bench (Sun et al. 2023, arXiv 2309.14525): how informative an answer is, and whether it makes things up.

96 questions, twelve of each of eight types. The judge is told what objects the picture has, the question and the right
answer, and rates from 0 to 6; below 3 the answer makes something up. Published numbers have a GPT-4 as judge
(``gpt-4-1106-preview`` in RLAIF-V), temperature 0, and the published five-example prompt, which may be given as a file:
its four ``{}`` are the picture's objects, question, right answer, and answer.

| protocol | a reply without a rating, or with several |
|---|---|
| ``mmhal`` | is a failed rating, and no score |
| ``mmhal-zero`` | counts as 0 and as made up, as in the published evaluator |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from vlmend.evaluation.judged.benchmark import Benchmark, JudgeProtocol, Measure
from vlmend.evaluation.judged.prompts import Prompt, prompt_of

__all__ = ["BENCHMARK", "published_ratings", "ratings"]

_HIGHEST, _MADE_UP = 6, 3
_RATING = re.compile(r"\brating\b[\s*_:=]*(-?\d+(?:\.\d+)?)(?:\s*(?:-|–|to|or)\s*(\d+))?", re.IGNORECASE)

_TASK = """\
A model that sees a picture was asked a question about it. You do not see the picture. Judge its answer by what you \
are told: objects that the picture has (there may be others), and an answer that is known to be right.

To make something up is to say of the picture what is neither in the right answer, nor among the objects, nor follows \
from them: things that are not there, wrong attributes, counts, places or relations, or taking for granted what the \
question wrongly presumes. General knowledge, and careful reasoning from what is there, is not made up.

Rate the answer:
6: makes nothing up, very informative, with reasoning beyond the right answer
5: makes nothing up, very informative
4: makes nothing up, somewhat informative
3: makes nothing up, not informative
2: makes something up, very informative
1: makes something up, somewhat informative
0: makes something up, not informative

Objects in the picture: {context}
Question: {question}
Right answer: {reference}
Answer to be judged: {answer}

Explain in a few sentences, then end with one line, "Rating: " and the number."""


def ratings(reply: str) -> Sequence[float]:
    """Every different rating in a reply; none if one is not a whole number from 0 to 6."""
    found = dict.fromkeys(float(one) for some in _RATING.findall(reply) for one in some if one)
    return list(found) if all(one in range(_HIGHEST + 1) for one in found) else []


def published_ratings(reply: str) -> Sequence[float]:
    """Those of 0 to 6 for which a reply has "rating: " and the digit, whatever follows it."""
    return [float(one) for one in range(_HIGHEST + 1) if f"rating: {one}" in reply.lower()]


BENCHMARK = Benchmark(
    name="mmhal",
    prompt=Prompt("vlmend", {"": _TASK}),
    own_prompt=partial(prompt_of, order=("context", "question", "reference", "answer")),
    protocols={
        one.name: one
        for one in (
            JudgeProtocol("mmhal", "1", ratings, None, "It is a failed rating, and no score."),
            JudgeProtocol("mmhal-zero", "1", published_ratings, (0.0,), "It counts as 0, as published."),
        )
    },
    count=1,
    measures={
        "score": Measure(lambda one: one.mean(lambda rating: rating[0]), unit="of 6"),
        "hallucination": Measure(lambda one: one.mean(lambda rating: float(rating[0] < _MADE_UP))),
    },
    temperature=0.0,
    max_tokens=500,
)
