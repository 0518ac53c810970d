"""POPE (Li et al. 2023, arXiv 2305.10355; its ``evaluate.py``): is there a … in the picture?

| protocol | an answer that is neither yes nor no |
|---|---|
| ``pope`` | counts as yes, whatever it is: only the words "No", "no" and "not" before the first full stop mean no |
| ``pope-first-word`` | is wrong, and neither yes nor no: the first word must be yes or no, in any case |

``pope`` is the published evaluator's reading, so that "NO", "None", "Not visible", "There isn't a chair" and an empty
answer are yes: a model that says nothing has a recall of 1. The share of yes is that of the answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vlmend.data.questions import Answer, YesNo, YesNoQuestion
from vlmend.errors import UnknownNameError
from vlmend.evaluation.hallucination.yes_no import YesNoProtocol, YesNoResult, asked, first_word

__all__ = ["DEFAULT", "PROTOCOLS", "pope", "protocol_of", "published_reading"]

DEFAULT = "pope-first-word"

_NO = frozenset({"No", "not", "no"})


def published_reading(text: str) -> YesNo:
    """No if one of three words stands between spaces before the first full stop, commas taken out; else yes."""
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return "yes" if _NO.isdisjoint(words) else "no"


PROTOCOLS: Mapping[str, YesNoProtocol] = {
    one.name: one
    for one in (
        YesNoProtocol("pope", "1", "yes", published_reading, "It counts as yes, as in the published evaluator."),
        YesNoProtocol("pope-first-word", "1", "yes", first_word, "It is wrong, and counts neither as yes nor as no."),
    )
}


def pope(questions: Sequence[YesNoQuestion], answers: Iterable[Answer], *, protocol: str = DEFAULT) -> YesNoResult:
    """Score answers to the questions of a POPE file; yes is the positive answer.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: questions and answers do not belong together one by one.
    """
    return asked(questions, answers, protocol_of(protocol))


def protocol_of(name: str) -> YesNoProtocol:
    """A protocol of POPE by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("POPE protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
