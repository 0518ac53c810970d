"""Rewordings by an OpenAI-compatible endpoint (see `vlmend.endpoints`)."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

from vlmend import endpoints
from vlmend.build.rewording import TASK
from vlmend.errors import EndpointError

__all__ = ["Endpoint"]

_TRIES = 3


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that rewords.

    Attributes:
        url: up to and without ``/chat/completions``.
        model: its name there.
        key: environment variable that holds the key; where it is not set, none is sent.
        timeout: seconds a reply may take.
        wait: seconds before the second try, twice that before the third; on errors of the server and refused
            connections.

    Raises:
        EndpointError: the URL cannot be used, or carries what is nobody else's to know; it is not repeated.
    """

    url: str
    model: str = "default"
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    wait: float = 1.0

    def __post_init__(self) -> None:
        _ = self._served

    @property
    def _served(self) -> endpoints.Endpoint:
        key = self.key if os.environ.get(self.key) else None
        return endpoints.Endpoint(self.url, key, timeout=self.timeout, tries=_TRIES, wait=self.wait)

    def reworded(self, question: str, rng: random.Random) -> str | None:
        """What the endpoint replies; ``None`` where that is no chat completion with a text.

        Raises:
            EndpointError: it refuses, or cannot be reached.
        """
        try:
            return self._said(question, rng)
        except EndpointError as error:
            if error.replied or error.this_one:
                return None
            raise

    def check(self) -> None:
        """Let it reword one question; a reply without a text is one yet.

        Raises:
            EndpointError: it refuses, cannot be reached, or replies what is no chat completion.
        """
        try:
            self._said("what is in the picture?", random.Random(0))
        except EndpointError as error:
            if not error.this_one:
                raise

    def _said(self, question: str, rng: random.Random) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": TASK.format(question=question)}],
            "temperature": 0.7,
            "seed": rng.getrandbits(31),
        }
        return self._served.complete(body).text.strip()
