"""Rewordings by an OpenAI-compatible endpoint.

Its key is sent to the host that was named and to no other: redirects are not followed. A URL that carries a name, a
password or a query is refused, so that none is in a run folder, a card or a complaint.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vlmend.build.rewording import TASK
from vlmend.errors import VlmendError

__all__ = ["Endpoint"]

_TRIES = 3
_LONGEST = 1 << 20  # bytes of a reply
_SCHEMES = ("http", "https")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: followed, it would take the key along."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None


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

    Raises:
        VlmendError: the URL is none, or carries what is nobody else's to know; it is not repeated.
    """

    url: str
    model: str = "default"
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    wait: float = 1.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, named, _ = parts.hostname, parts.username is not None or "@" in parts.netloc, parts.port
        except ValueError:
            raise VlmendError("the endpoint's URL cannot be read: give http(s)://HOST[:PORT]/PATH") from None
        if named:
            raise VlmendError(f"the endpoint's URL carries a name or a password: leave them out, {self._instead}")
        if parts.query or parts.fragment or "?" in self.url:
            raise VlmendError(f"the endpoint's URL carries a query (?...) or a fragment: leave it out, {self._instead}")
        if parts.scheme not in _SCHEMES or not host or not self.url.isprintable() or " " in self.url:
            raise VlmendError("the endpoint's URL cannot be read: give http(s)://HOST[:PORT]/PATH")

    @property
    def _instead(self) -> str:
        return f"a key is read from {self.key}"

    def reworded(self, question: str, rng: random.Random) -> str | None:
        """What the endpoint replies; ``None`` where that is no chat completion with a text."""
        return self._text(self._replied(question, rng))

    def check(self) -> None:
        """Let it reword one question; a reply without a text is one yet.

        Raises:
            VlmendError: it refuses, cannot be reached, or replies what is no chat completion.
        """
        reply = self._replied("what is in the picture?", random.Random(0))
        try:
            _ = reply["choices"][0]["message"]
        except (KeyError, IndexError, TypeError):
            shown = self._public(" ".join(str(reply).split())[:120])
            raise VlmendError(f"{self.url} replies what is no chat completion: {shown}") from None

    @staticmethod
    def _text(reply: Any) -> str | None:
        try:
            text = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            return None
        return text.strip() if isinstance(text, str) else None

    def _replied(self, question: str, rng: random.Random) -> Any:
        """The reply as it was read from JSON; as text where it is none."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": TASK.format(question=question)}],
            "temperature": 0.7,
            "seed": rng.getrandbits(31),
        }
        read = self._posted(json.dumps(body).encode())
        try:
            return json.loads(read)
        except (ValueError, RecursionError):
            return read.decode(errors="replace")

    def _posted(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if secret := self._secret:
            headers["Authorization"] = f"Bearer {secret}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        opener = urllib.request.build_opener(_NoRedirects)
        for attempt in range(_TRIES):
            try:
                with opener.open(request, timeout=self.timeout) as reply:
                    return reply.read(_LONGEST)
            except urllib.error.HTTPError as error:
                with error:
                    if 300 <= error.code < 400:
                        raise VlmendError(f"{self.url} redirects elsewhere: name the place itself") from None
                    if (error.code < 500 and error.code != 429) or attempt == _TRIES - 1:
                        why = self._public(f"HTTP {error.code} {error.reason}")
                        raise VlmendError(f"{self.url} refuses: {why}") from None
            except (OSError, http.client.HTTPException) as error:
                if attempt == _TRIES - 1:
                    raise VlmendError(f"{self.url} cannot be reached: {self._public(str(error))}") from error
            time.sleep(self.wait * 2**attempt)
        raise AssertionError("the last try returns or raises")

    @property
    def _secret(self) -> str:
        secret = os.environ.get(self.key, "").strip()
        if not (secret.isascii() and secret.isprintable()):
            raise VlmendError(f"{self.key} holds characters that no key has")
        return secret

    def _public(self, text: str) -> str:
        """A text of the server's without the key, should it repeat it."""
        return text.replace(self._secret, "...") if self._secret else text
