"""A served language model: an endpoint that speaks OpenAI's chat completions (``POST <url>/chat/completions``).

What may go wrong with secrets is refused: a key comes from an environment variable that is named and from nowhere else,
is sent to no other address than the one given (no redirect is followed), travels unencrypted on this machine alone, and
is in no message. An address with a name and password in it would end up in run folders, so there may be none.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from vlmend.errors import EndpointError

__all__ = ["Completion", "Endpoint"]

_LARGEST = 8 << 20  # bytes of a reply that are read
_LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
_NOT_NOW = (408, 425, 429)
_THIS_REQUEST = (400, 413, 422)  # too long, or filtered


@dataclass(frozen=True, slots=True)
class Completion:
    """What was replied, and the model that says it replied (its version; empty where it does not say)."""

    text: str
    model: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes an error of every redirect: urllib would send the key along, to whatever host."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint.

    Attributes:
        url: up to and without ``/chat/completions``.
        key: environment variable that holds the key; with ``None`` no key is sent.
        timeout: seconds a reply may take.
        tries: how often a request is sent while the server is busy, fails or cannot be reached.
        wait: seconds before the second try, twice that before the third, and so on; a server that asks for more has
            it, up to a minute.

    Raises:
        EndpointError: the address cannot be used, or the key's variable is not set.
    """

    url: str
    key: str | None = None
    timeout: float = 60.0
    tries: int = 4
    wait: float = 1.0

    def __post_init__(self) -> None:
        _checked(self.url)
        if self.key is not None:
            _secret(self.key)
            if not _safe_for_keys(self.url):
                raise EndpointError(f"{self.url}: a key is sent by https:// alone, except on this machine")

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """The reply to a request.

        Raises:
            EndpointError: there is none; the message has no secret in it.
        """
        reply = self._posted(json.dumps(dict(body)).encode())
        try:
            text, model = reply["choices"][0]["message"]["content"], reply.get("model")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            shown = self._shown(reply)
            raise EndpointError(f"{self.url} replies what is no chat completion: {shown}", replied=True) from error
        if not isinstance(text, str):
            raise EndpointError(f"{self.url} replies without a text: {self._shown(reply)}", this_one=True, replied=True)
        return Completion(text, model if isinstance(model, str) else "")

    def _posted(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {_secret(self.key)}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        for attempt in range(self.tries):
            last, pause = attempt == self.tries - 1, self.wait * 2**attempt
            try:
                with _OPENER.open(request, timeout=self.timeout) as reply:
                    content = reply.read(_LARGEST + 1)
                return self._parsed(content)
            except urllib.error.HTTPError as error:
                with error:
                    if last or (error.code < 500 and error.code not in _NOT_NOW):
                        raise self._refused(error) from None
                    pause = max(pause, _asked_for(error))
            except (OSError, HTTPException) as error:
                if last:
                    reason = getattr(error, "reason", None) or error
                    raise EndpointError(f"{self.url} cannot be reached: {self._shown(reason)}") from None
            time.sleep(pause)
        raise EndpointError(f"{self.url}: a request must be tried once at least")

    def _parsed(self, content: bytes) -> Any:
        if len(content) > _LARGEST:
            raise EndpointError(f"{self.url} replies more than {_LARGEST >> 20} MB")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise EndpointError(f"{self.url} replies what is no JSON: {self._shown(error)}", replied=True) from None

    def _refused(self, error: urllib.error.HTTPError) -> EndpointError:
        if 300 <= error.code < 400:
            host = urlsplit(error.headers.get("Location", "")).hostname or "another path"
            return EndpointError(f"{self.url} redirects to {host}, which is not followed; give the final address")
        said = self._shown(error.read(500).decode("utf-8", "replace"))
        about = f"{self.url} refuses: HTTP {error.code} {self._shown(error.reason)}" + (f" ({said})" if said else "")
        return EndpointError(about, this_one=error.code in _THIS_REQUEST)

    def _shown(self, what: object) -> str:
        """The beginning of what came, in one line, without the key, which some servers repeat."""
        text = " ".join(str(what).split())
        if self.key is not None:
            text = text.replace(_secret(self.key), "***")
        return "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:160])


def _checked(url: str) -> None:
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise EndpointError("the address of an endpoint cannot be read: give http(s)://HOST[:PORT]/PATH") from None
    if parts.username is not None or parts.password is not None:
        # Not repeated: it has a password in it.
        raise EndpointError(
            f"an address with a name and password in it is not taken ({host}); put the key into an environment variable"
        )
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise EndpointError("an endpoint's address begins with http:// or https:// and a host")
    if parts.query or parts.fragment:
        raise EndpointError(f"an endpoint's address ends before any ? or # ({host})")
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        raise EndpointError(f"the address of an endpoint has white space in it ({host})")


def _secret(variable: str) -> str:
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise EndpointError(f"the environment variable {variable}, which is to hold the endpoint's key, is not set")
    if not secret.isascii() or not secret.isprintable():
        raise EndpointError(f"the environment variable {variable} holds what is no key: not printable ASCII")
    return secret


def _safe_for_keys(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _asked_for(error: urllib.error.HTTPError) -> float:
    try:
        return min(max(float(error.headers.get("Retry-After", "")), 0.0), _LONGEST_WAIT)
    except ValueError:  # a date, or nothing
        return 0.0
