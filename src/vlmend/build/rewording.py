"""The same question in other words: by templates, a chat model in a folder, or an OpenAI-compatible endpoint.

Whatever makes it, a rewording is checked: it is other words, of a length that is not far off, with the same numbers in
it, and it does not give the answer away.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from vlmend.data.records import Example
from vlmend.errors import VlmendError
from vlmend.evaluation.text import normalised
from vlmend.models.prompts import MARKER

__all__ = ["TEMPLATES", "Endpoint", "LocalChat", "Rephraser", "Templates", "flaw"]

_NUMBER = re.compile(r"\d+")
_LONGEST = 4.0  # times the words of the question, and a few more
_TRIES = 3
_TASK = (
    "Reword the question so that it asks exactly the same in other words. Keep every name and number. "
    "Do not answer it. Reply with the reworded question alone, in one line.\nQuestion: {question}"
)

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

    def reworded(self, question: str, rng: random.Random) -> str:
        """Another wording; ``rng`` is the record's own.

        Raises:
            VlmendError: it cannot be had.
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


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint (``POST <url>/chat/completions``).

    Attributes:
        url: up to and without ``/chat/completions``.
        model: its name there.
        key: environment variable that holds the key, if one is needed; it is written nowhere.
        timeout: seconds a reply may take.
        wait: seconds before the second try, twice that before the third; on errors of the server and refused
            connections.
    """

    url: str
    model: str = "default"
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    wait: float = 1.0

    def reworded(self, question: str, rng: random.Random) -> str:
        """What the endpoint replies."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": _TASK.format(question=question)}],
            "temperature": 0.7,
            "seed": rng.getrandbits(31),
        }
        reply = self._posted(json.dumps(body).encode())
        try:
            return str(reply["choices"][0]["message"]["content"]).strip()
        except (KeyError, IndexError, TypeError) as error:
            raise VlmendError(f"{self.url} replies what is no chat completion: {str(reply)[:120]}") from error

    def _posted(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {secret}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        for attempt in range(_TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as error:
                if (error.code < 500 and error.code != 429) or attempt == _TRIES - 1:
                    raise VlmendError(f"{self.url} refuses: HTTP {error.code} {error.reason}") from error
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                if attempt == _TRIES - 1:
                    raise VlmendError(f"{self.url} cannot be reached: {error}") from error
            except ValueError as error:
                raise VlmendError(f"{self.url} replies what is no JSON: {error}") from error
            time.sleep(self.wait * 2**attempt)
        raise AssertionError("the last try returns or raises")


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
        messages = [{"role": "user", "content": _TASK.format(question=question)}]
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

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model = AutoModelForCausalLM.from_pretrained(self.folder, local_files_only=True)
            return model.eval(), AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            raise VlmendError(f"'{self.folder}' holds no chat model of transformers: {why}") from error


def flaw(example: Example, reworded: str) -> str | None:
    """Why a text is no rewording of a question; ``None`` if it is."""
    asked, text = normalised(example.question.replace(MARKER, " ")), normalised(reworded)
    if not reworded.strip():
        return "empty"
    if "\n" in reworded.strip():
        return "more than a line"
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
