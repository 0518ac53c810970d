"""Whoever can be given a task in words: an OpenAI-compatible endpoint, a chat model in a folder, a VLM without picture.

Several tasks are given together, each with a seed of its own. A reply that is none is said of that task; an endpoint
that is down, or wants another key, ends the work with one line, since the next task would fare no better.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from vlmend.endpoints import Endpoint
from vlmend.errors import EndpointError, PromptError
from vlmend.models.folders import pretrained
from vlmend.models.outputs import Question
from vlmend.models.sampling import Draws
from vlmend.models.vlm import VLM

__all__ = ["Chat", "EndpointChat", "FolderChat", "OwnChat", "Said"]

_TRIES = 3


@dataclass(frozen=True)
class Said:
    """A reply, or why there is none (``text`` is ``None``)."""

    text: str | None
    problem: str = ""


class Chat(Protocol):
    """Does tasks that are given in words."""

    @property
    def name(self) -> str:
        """Which one it is; no key is in it."""
        ...

    @property
    def at_once(self) -> int:
        """How many tasks it is best given together."""
        ...

    def replies(self, tasks: Sequence[str], seeds: Sequence[int]) -> list[Said]:
        """A reply to each, drawn by its seed.

        Raises:
            VlmendError: no task can be done now.
        """
        ...

    def check(self) -> None:
        """Find out before the long work whether it does tasks at all.

        Raises:
            VlmendError: it does not.
        """
        ...


@dataclass(frozen=True)
class EndpointChat:
    """An OpenAI-compatible endpoint (see `vlmend.endpoints`).

    Attributes:
        url: up to and without ``/chat/completions``.
        model: its name there.
        key: environment variable that holds the key; where it is not set, none is sent.
        temperature, top_p, max_new_tokens: of replies.
        at_once: requests under way together.
        timeout: seconds a reply may take.
        wait: seconds before the second try, twice that before the third; on errors of the server and refusals.

    Raises:
        EndpointError: the URL cannot be used.
    """

    url: str
    model: str = "default"
    key: str = "OPENAI_API_KEY"
    temperature: float = 0.8
    top_p: float = 0.95
    max_new_tokens: int = 512
    at_once: int = 8
    timeout: float = 120.0
    wait: float = 1.0

    def __post_init__(self) -> None:
        _ = self._served

    @property
    def _served(self) -> Endpoint:
        key = self.key if os.environ.get(self.key) else None
        return Endpoint(self.url, key, timeout=self.timeout, tries=_TRIES, wait=self.wait)

    @property
    def name(self) -> str:
        return f"{self.model} at {self.url}"

    def replies(self, tasks: Sequence[str], seeds: Sequence[int]) -> list[Said]:
        """What the endpoint replies."""
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self._reply, tasks, seeds))

    def check(self) -> None:
        """Give it a small task; a completion without a text is one yet, and whatever else comes is no such endpoint."""
        try:
            self._served.complete(self._body("Say hello.", 0))
        except EndpointError as error:
            if not (error.replied and error.this_one):
                raise

    def _body(self, task: str, seed: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": task}],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_new_tokens,
            "seed": seed % 2**31,
        }

    def _reply(self, task: str, seed: int) -> Said:
        try:
            return Said(self._served.complete(self._body(task, seed)).text.strip())
        except EndpointError as error:
            if error.replied:
                return Said(None, "the reply is no chat completion")
            if error.this_one:
                return Said(None, "the endpoint refuses it")
            raise


@dataclass(frozen=True)
class FolderChat:
    """A chat model of transformers in a folder; nothing is fetched, and weights are read from safetensors only.

    Attributes:
        folder: of the model and its tokenizer.
        temperature, top_p, max_new_tokens: of replies.
        at_once: tasks in one batch.
        device: where it runs.
    """

    folder: str
    temperature: float = 0.8
    top_p: float = 0.95
    max_new_tokens: int = 512
    at_once: int = 16
    device: str = "cpu"

    @property
    def name(self) -> str:
        return self.folder

    def replies(self, tasks: Sequence[str], seeds: Sequence[int]) -> list[Said]:
        """What the model says, drawn by each task's seed."""
        from transformers import GenerationConfig

        from vlmend.models.logits import processors_of

        model, tokenizer = self._loaded
        given = tokenizer([self._prompt(tokenizer, task) for task in tasks], return_tensors="pt", padding=True,
                          add_special_tokens=not tokenizer.chat_template).to(model.device)  # fmt: skip
        draws = Draws(tuple(seeds), self.temperature, self.top_p)
        begin = given["input_ids"].shape[1]
        settings = GenerationConfig(
            **draws.settings,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        processors = processors_of(draws.after(None, range(len(tasks))), begin)
        with torch.no_grad():
            ids_BT = model.generate(**given, generation_config=settings, logits_processor=processors)
        return [Said(tokenizer.decode(ids_T[begin:], skip_special_tokens=True).strip()) for ids_T in ids_BT]

    def check(self) -> None:
        """Load it."""
        _ = self._loaded

    @staticmethod
    def _prompt(tokenizer: Any, task: str) -> str:
        messages = [{"role": "user", "content": task}]
        if tokenizer.chat_template:
            return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return f"{task}\n"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model, tokenizer = pretrained(AutoModelForCausalLM, AutoTokenizer, self.folder, "chat model of transformers")
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return model.to(self.device), tokenizer


@dataclass(frozen=True)
class OwnChat:
    """A VLM's own language model, asked through its chat template without a picture.

    Attributes:
        vlm: whose.
        temperature, top_p, max_new_tokens: of replies.
    """

    vlm: VLM
    temperature: float = 0.8
    top_p: float = 0.95
    max_new_tokens: int = 512

    @property
    def name(self) -> str:
        return f"the language model of {self.vlm.name}"

    @property
    def at_once(self) -> int:
        return self.vlm.batch_rows

    def replies(self, tasks: Sequence[str], seeds: Sequence[int]) -> list[Said]:
        """What it says, drawn by each task's seed; of a task that has what stands for a picture in it, that."""
        found: dict[int, Said] = {}
        asked: list[int] = []
        for index, task in enumerate(tasks):
            try:
                row = self.vlm.prepare([Question(task)]).rows[0]
            except PromptError:
                found[index] = Said(None, "the model cannot be asked it")
            else:
                seen = bool((row.ids_T == self.vlm.parts.image_token).any())
                found[index] = Said(None, "the model cannot be asked it") if seen else Said("")
                asked += [] if seen else [index]
        if asked:
            draws = Draws(tuple(seeds[index] for index in asked), self.temperature, self.top_p)
            prepared = self.vlm.prepare([Question(tasks[index]) for index in asked])
            said = self.vlm.replies(prepared, max_new_tokens=self.max_new_tokens, sampling=draws)
            found |= {index: Said(one.text) for index, one in zip(asked, said, strict=True)}
        return [found[index] for index in range(len(tasks))]

    def check(self) -> None:
        """It is loaded already."""
