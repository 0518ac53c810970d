"""Object HalBench's extractor behind any endpoint: what a text says is there, as a JSON list.

The same client, record and replay as for judges. An answer whose objects could not be had is left out and counted: to
take it for one that names nothing would make the model look better.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from vlmend.data.questions import Answer, Key, OpenQuestion
from vlmend.endpoints import Completion
from vlmend.errors import VlmendError
from vlmend.evaluation.failure import Failure
from vlmend.evaluation.hallucination.object_halbench import (
    Extractor,
    ObjectHalBenchResult,
    is_short,
    object_halbench,
)
from vlmend.evaluation.judged.judge import Judge, Told
from vlmend.evaluation.judged.prompts import Prompt
from vlmend.evaluation.judged.replies import Request

__all__ = ["PROMPT", "extracted_objects", "judged_object_halbench"]

_LIST = re.compile(r"\[[^\[\]]*\]")
_MAX_TOKENS = 512

PROMPT = Prompt(
    "vlmend",
    {
        "": """\
A picture was described by the text below. List the things that the text says are in the picture: objects, animals, \
people, pieces of furniture, food, vehicles. Leave out what it says is not there or only may be there, colours and \
other attributes, actions, moods, places as a whole, and the words picture and image. Name each thing once, as a short \
noun in the singular, as the text calls it. Reply with a JSON list of strings alone; [] if there are none.

Text: {answer}"""
    },
)
"""Ours; the published one is for a model that is no longer served."""


def extracted_objects(reply: str) -> list[str] | None:
    """The one list of texts in a reply; ``None`` if it has none, or several."""
    lists: list[list[str]] = []
    for found in _LIST.findall(reply):
        try:
            values = json.loads(found)
        except (ValueError, RecursionError):
            continue
        if all(isinstance(one, str) for one in values):
            lists.append([one.strip() for one in values if one.strip()])
    return lists[0] if len(lists) == 1 else None


def judged_object_halbench(
    answers: Iterable[Answer],
    objects: Mapping[Key, Collection[str]],
    judge: Judge,
    *,
    synonyms: str,
    protocol: str = "object-halbench",
    prompt: Prompt = PROMPT,
) -> ObjectHalBenchResult:
    """Object HalBench of answers whose objects an endpoint lists.

    Args:
        answers, objects, synonyms, protocol: as for `object_halbench`.
        judge: the extractor; asked once for each answer, at temperature 0 unless it has one of its own.
        prompt: what it is told.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: it is not known what a picture shows, or no answer's objects could be had.
        WriteError: a reply cannot be recorded.
    """
    given = list(answers)
    requests = {id(one): _request(judge, prompt, one) for one in given if not is_short(one)}
    told = judge.told(list(requests.values()), lambda reply: extracted_objects(reply) is not None)
    came = dict(zip(requests, told, strict=True))
    lists = {key: _objects(reply) for key, reply in came.items()}
    kept = [one for one in given if not isinstance(lists.get(id(one)), str)]
    failed = tuple(Failure(one.id, 0, why) for one in given if isinstance(why := lists.get(id(one)), str))
    if given and not kept:
        raise VlmendError(f"object-halbench: no answer's objects could be had: {failed[0].why}")

    def named(answer: Answer) -> Sequence[str]:
        return [one for one in lists.get(id(answer), ()) if len(one) > 0]

    extractor = Extractor(_name(judge, prompt, list(requests.values()), told), named)
    result = object_halbench(kept, objects, extractor, synonyms=synonyms, protocol=protocol)
    return replace(result, failed=failed)


def _request(judge: Judge, prompt: Prompt, answer: Answer) -> Request:
    question = OpenQuestion(answer.id, "", answer.question, "")
    return judge.request(prompt.messages(question, answer.text), temperature=0.0, max_tokens=_MAX_TOKENS)


def _objects(reply: Told) -> list[str] | str:
    """What an answer names, or why that is not known."""
    if not isinstance(reply, Completion):
        return reply.why
    found = extracted_objects(reply.text)
    beginning = " ".join(reply.text.split())[:80]
    return f"the reply is not one JSON list of texts ({beginning!r})" if found is None else found


def _name(judge: Judge, prompt: Prompt, requests: Sequence[Request], told: Sequence[Told]) -> str:
    served = sorted({one.model for one in told if isinstance(one, Completion) and one.model})
    temperature = requests[0].body["temperature"] if requests else judge.temperature or 0.0
    model = f"{judge.model} ({', '.join(served)})" if served else judge.model
    return f"{model}, temperature {temperature:g}, prompt {prompt.id}"
