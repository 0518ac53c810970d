"""The same question in other words: by templates or a chat model (`vlmend.models.chat`).

Whatever makes it, a rewording is checked: it is other words, of a length that is not far off, with the same numbers in
it, and it does not give the answer away.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vlmend.data.records import Example
from vlmend.evaluation.text import normalised
from vlmend.models.chat import Chat
from vlmend.models.prompts import MARKER

__all__ = ["TASK", "TEMPLATES", "Rephraser", "Reworder", "Templates", "flaw"]

_NUMBER = re.compile(r"\d+")
_LONGEST = 4.0  # times the words of the question, and a few more
TASK = (
    "Reword the question so that it asks exactly the same in other words. Keep every name and number. "
    "Do not answer it. Reply with the reworded question alone, in one line.\nQuestion: {question}"
)
"""What a chat model is told."""

TEMPLATES: Mapping[str, Sequence[str]] = {
    "vqa": (
        "look at the picture. {question}",
        "tell me about this picture: {question}",
        "answer this about what is shown: {question}",
        "here is something to be answered from the picture: {question}",
        "from what can be seen: {question}",
        "a question on the picture: {question}",
        "going by the picture, {question}",
        "would you say, {question}",
        "please answer: {question}",
        "i would like to know this: {question}",
        "in this picture, {question}",
        "judging by what is here, {question}",
    ),
    "caption": (
        "what does the picture show?",
        "say what is in the picture.",
        "write a caption.",
        "a short caption of this picture:",
        "put what is seen into one sentence.",
        "what is to be seen here?",
        "tell what is shown.",
        "give a one-line account of the picture.",
        "how would this picture be captioned?",
        "name what is in view.",
        "sum up the picture in a sentence.",
        "what is this a picture of?",
        "in a few words, what is here?",
        "state what the picture contains.",
        "give the content of the picture.",
        "what would be written below this picture?",
        "say in one sentence what is there.",
        "briefly, what is shown?",
        "what can be made out in the picture?",
        "write down what is seen.",
    ),
}
"""Kind of data -> what stands for a question: around it, or, where every picture is asked the same, in its place."""


class Rephraser(Protocol):
    """Says a question in other words."""

    def reworded(self, question: str, rng: random.Random) -> str | None:
        """Another wording, ``None`` where what came back is none at all; ``rng`` is the record's own.

        Raises:
            VlmendError: it cannot be had, nor will another be.
        """
        ...

    def check(self) -> None:
        """Find out before the long work whether it can reword at all.

        Raises:
            VlmendError: it cannot.
        """
        ...


@dataclass(frozen=True)
class Templates:
    """One of some templates, by lot.

    Attributes:
        kind: of `TEMPLATES`.
    """

    kind: str = "vqa"

    def reworded(self, question: str, rng: random.Random) -> str:
        """The template with the question in it."""
        return rng.choice(TEMPLATES[self.kind]).format(question=question)

    def check(self) -> None:
        """Templates are always there."""


@dataclass(frozen=True)
class Reworder:
    """A chat model that is told to reword.

    Attributes:
        chat: which one.
    """

    chat: Chat

    def reworded(self, question: str, rng: random.Random) -> str | None:
        """What it says to the task, drawn by the record's own seed; ``None`` where that is no text.

        Raises:
            VlmendError: it can do no task now.
        """
        (said,) = self.chat.replies([TASK.format(question=question)], [rng.getrandbits(31)])
        return said.text

    def check(self) -> None:
        """Find out whether it does tasks."""
        self.chat.check()


def flaw(example: Example, reworded: str | None) -> str | None:
    """Why a text is no rewording of a question; ``None`` if it is."""
    if reworded is None:
        return "a reply without a text"
    asked, text = normalised(example.question.replace(MARKER, " ")), normalised(reworded)
    if not reworded.strip():
        return "empty"
    if "\n" in reworded.strip():
        return "more than a line"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in reworded.strip()):
        return "it has characters that are no text"
    if text == asked:
        return "the same words"
    if MARKER in reworded:
        return "it marks a picture"
    if len(text.split()) > _LONGEST * len(asked.split()) + 8:
        return "too long"
    if sorted(_NUMBER.findall(text)) != sorted(_NUMBER.findall(asked)):
        return "other numbers"
    for answer in map(normalised, example.accepted):
        if answer and f" {answer} " in f" {text} " and f" {answer} " not in f" {asked} ":
            return "it gives the answer away"
    return None
