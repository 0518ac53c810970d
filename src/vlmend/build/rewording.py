"""The same question in other words: by templates or a chat model (`vlmend.models.chat`).

Whatever makes it, a rewording is checked: it is other words, of a length that is not far off, with the same numbers in
it, and it does not give the answer away. What a chat model says is stripped of its thoughts, labels and quotes first;
it must share a word with the question, not be the same for other questions, and neither refuse nor talk about itself.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vlmend.data.records import Example
from vlmend.evaluation.text import normalised
from vlmend.evaluation.vqa import vqa_normalised
from vlmend.models.chat import Chat
from vlmend.models.prompts import MARKER

__all__ = ["REPEATED", "TASK", "TEMPLATES", "Rephraser", "Reworder", "Templates", "flaw", "repeated", "stripped"]

_NUMBER = re.compile(r"\d+")
_LONGEST = 4.0  # times the words of the question, and a few more
_UNSPACED = re.compile(  # letters of Thai, Lao, Burmese, Khmer, Japanese, Chinese and Korean: words have no ends
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
_HIRAGANA = re.compile("[\u3041-\u309f]")  # endings and particles
_SHARED = (
    "a an the is are was were be been do does did has have had can could will would should may might must what which "
    "who whom whose where when why how many much there here this that these those it its he she they them his her "
    "their you your i me my we our us of in on at by to for from with and or not no as so if about into out up down "
    "than then please tell say name give answer question look see seen show shown shows picture image photo photograph "
    "scene describe caption \u7684 \u662f \u4ec0 \u4e48 \u5728 \u6709 \u5417 \u5462 \u8fd9 \u90a3 \u4e2a "
    "\u4e00 \u4e0d \u6211 \u4f60 \u4e86"
)
_COMMON = frozenset(_SHARED.split())
"""What questions about pictures share that ask for other things, in Chinese too."""

_THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"\A.*</(think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)  # begun in the prompt
_LABEL = re.compile(
    r"\A[*_#\s]*(((the )?(reworded|rephrased|rewritten|paraphrased|new)( (question|version|text))?)"
    r"|rewording|rephrasing|paraphrase|question|output)[*_\s]*[:\uff1a][*_]*\s*",
    re.IGNORECASE,
)
_QUOTES = ('""', "''", "``", "**", "__", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb", "\u300c\u300d", "\u201e\u201c")
_REFUSAL = re.compile(
    r"(i('m| am) (very |so )?(sorry|afraid|unable|not able)|(my )?apologies|sorry\b|unfortunately\b"
    r"|i (cannot|can't|can not|won't|will not|am not)\b)|.*\b(as an? (ai|(large )?language model|assistant))\b",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"(sure|certainly|of course|absolutely|okay|ok|gladly|no problem|got it|alright)\b\s*([,!.:;]|here\b)"
    r"|.{0,60}\b(reworded|rephrased|rewritten|paraphrased|rewording|paraphrase)\b",
    re.IGNORECASE,
)
REPEATED = "the same for other questions"
"""Why `repeated` texts are none."""

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
    """Says questions in other words."""

    @property
    def at_once(self) -> int:
        """How many it is best given together."""
        ...

    @property
    def free(self) -> bool:
        """Whether it says what it likes, so that it must be held against the question."""
        ...

    def reworded(self, questions: Sequence[str], rngs: Sequence[random.Random]) -> list[str | None]:
        """Another wording of each, ``None`` where what came back is none at all; ``rngs`` are the records' own.

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

    @property
    def at_once(self) -> int:
        return 1

    @property
    def free(self) -> bool:
        return False

    def reworded(self, questions: Sequence[str], rngs: Sequence[random.Random]) -> list[str | None]:
        """Templates with the questions in them."""
        drawn = (rng.choice(TEMPLATES[self.kind]) for rng in rngs)
        return [one.format(question=question) for one, question in zip(drawn, questions, strict=True)]

    def check(self) -> None:
        """Templates are always there."""


@dataclass(frozen=True)
class Reworder:
    """A chat model that is told to reword.

    Attributes:
        chat: which one.
    """

    chat: Chat

    @property
    def at_once(self) -> int:
        return self.chat.at_once

    @property
    def free(self) -> bool:
        return True

    def reworded(self, questions: Sequence[str], rngs: Sequence[random.Random]) -> list[str | None]:
        """What it says to the task, `stripped`, drawn by each record's own seed; ``None`` where that is no text.

        Raises:
            VlmendError: it can do no task now.
        """
        tasks = [TASK.format(question=question) for question in questions]
        replies = self.chat.replies(tasks, [rng.getrandbits(31) for rng in rngs])
        return [None if said.text is None else stripped(said.text) for said in replies]

    def check(self) -> None:
        """Find out whether it does tasks."""
        self.chat.check()


def stripped(reply: str) -> str:
    """A reply without the model's thoughts, a label before it, and quotes or bold type around it."""
    text, before = _THOUGHT.sub("", _THOUGHTS.sub("", reply)), None
    while text != before:
        before = text
        text = _LABEL.sub("", text.strip())
        for mark in _QUOTES:
            inner = text[1:-1]
            if len(text) > 2 and text[0] == mark[0] and text[-1] == mark[1]:  # "a" or "b" is no quotation
                wrapped = not {*mark} & {*inner} or inner[0] == inner[-1] == mark[0]
                text = inner if wrapped else text
    return text


def flaw(example: Example, reworded: str | None, *, free: bool = False) -> str | None:
    """Why a text is no rewording of a question; ``None`` if it is.

    Args:
        example: with the question.
        reworded: the text.
        free: whether whoever made it says what it likes (`Rephraser.free`).
    """
    if reworded is None:
        return "a reply without a text"
    question, line = example.question.replace(MARKER, " "), reworded.strip()
    asked, text = _spaced(normalised(question)), _spaced(normalised(line))
    if not line:
        return "empty"
    if len(line.splitlines()) > 1:
        return "more than a line"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in line):
        return "it has characters that are no text"
    if text == asked:
        return "the same words"
    if MARKER in reworded:
        return "it marks a picture"
    if free and (wrong := _talk(question, line)):
        return wrong
    if len(text.split()) > _LONGEST * len(asked.split()) + 8:
        return "too long"
    if sorted(_NUMBER.findall(text)) != sorted(_NUMBER.findall(asked)):
        return "other numbers"
    if any(_tells(line, answer) and not _tells(question, answer) for answer in example.accepted):
        return "it gives the answer away"
    if free and (content := _content(asked)) and content.isdisjoint(_content(text)):
        return "none of the question's words"
    return None


def repeated(pairs: Iterable[tuple[str, str]]) -> set[str]:
    """Of (question, rewording), the texts that are given for several different questions."""
    found: dict[str, set[str]] = {}
    for question, text in pairs:
        found.setdefault(normalised(text), set()).add(normalised(question))
    return {text for text, questions in found.items() if len(questions) > 1}


def _talk(question: str, line: str) -> str | None:
    """What a text says of its maker rather than asks; a question that begins so may be reworded so."""
    for pattern, why in ((_REFUSAL, "a refusal"), (_PREAMBLE, "it talks of the rewording")):
        if pattern.match(line.replace("\u2019", "'")) and not pattern.match(question.replace("\u2019", "'")):
            return why
    return None


def _tells(text: str, answer: str) -> bool:
    """Whether an answer stands in a text, as words, number words and digits alike."""
    forms = ((_spaced(form(answer)), _spaced(form(text))) for form in (normalised, vqa_normalised))
    return any(bool(said) and f" {said} " in f" {whole} " for said, whole in forms)


def _spaced(text: str) -> str:
    """A text whose letters are words of their own in scripts without spaces."""
    return " ".join(_UNSPACED.sub(r" \g<0> ", text).split())


def _content(text: str) -> set[str]:
    """The beginnings of the words by which a question differs from others; numbers are compared elsewhere."""
    words = (one for one in text.split() if not (one in _COMMON or one.isdecimal() or _HIRAGANA.match(one)))
    return {word[:4] if len(word) > 4 else word.rstrip("s") for word in words}
