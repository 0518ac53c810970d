"""The same question in other words: by templates or a chat model in a folder (`endpoint.py`: by one that is served).

Whatever makes it, a rewording is checked: it is other words, of a length that is not far off, with the same numbers in
it, and it does not give the answer away.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from vlmend.build.folders import pretrained
from vlmend.data.records import Example
from vlmend.evaluation.text import normalised
from vlmend.models.prompts import MARKER

__all__ = ["TASK", "TEMPLATES", "LocalChat", "Rephraser", "Templates", "flaw"]

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
class LocalChat:
    """A chat model of transformers in a folder; nothing is fetched.

    Attributes:
        folder: of the model and its tokenizer.
        max_new_tokens: longest rewording.
    """

    folder: str
    max_new_tokens: int = 64

    def reworded(self, question: str, rng: random.Random) -> str:
        """What the model says to the task, drawn by the record's own seed."""
        import torch

        model, tokenizer = self._loaded
        messages = [{"role": "user", "content": TASK.format(question=question)}]
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        else:
            text = messages[0]["content"] + "\n"
        given = tokenizer(text, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.getrandbits(31))
            ids = model.generate(
                **given, do_sample=True, temperature=0.7, max_new_tokens=self.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )  # fmt: skip
        return tokenizer.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def check(self) -> None:
        """Load it."""
        _ = self._loaded

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        return pretrained(AutoModelForCausalLM, AutoTokenizer, self.folder, "chat model of transformers")


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
