"""The judge: a model behind an endpoint, or what it once replied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Protocol

from vlmend.endpoints import Completion
from vlmend.errors import EndpointError
from vlmend.evaluation.judged.replies import Replies, Request

__all__ = ["Judge", "Missing", "Speaker", "Told"]


class Speaker(Protocol):
    """What replies to requests: an `Endpoint`, or anything of one's own."""

    def complete(self, body: Mapping[str, Any]) -> Completion:
        """The reply to a request.

        Raises:
            EndpointError: there is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class Missing:
    """Why there is no reply."""

    why: str


Told = Completion | Missing
"""What came of a request."""


def _nothing() -> None:
    """Nothing is shown of how far it is."""


@dataclass(frozen=True)
class Judge:
    """A judge.

    Attributes:
        model: its name at the endpoint; part of what is recorded, so it is needed for a replay too.
        replies: what it has replied; those are not asked for again.
        endpoint: where it is asked; ``None`` for a replay alone.
        temperature, max_tokens: of every request; ``None`` for what a benchmark's protocol says.
        runs: how often each is asked, and the ratings averaged.
        at_once: requests under way together.
        progress: called once for every request that is done.
    """

    model: str
    replies: Replies
    endpoint: Speaker | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    runs: int = 1
    at_once: int = 4
    progress: Callable[[], None] = _nothing

    def request(
        self, messages: Sequence[Mapping[str, str]], *, temperature: float, max_tokens: int, run: int = 0
    ) -> Request:
        """A request with these messages; temperature and longest reply where the judge has none of its own."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(one) for one in messages],
            "temperature": temperature if self.temperature is None else self.temperature,
            "max_tokens": max_tokens if self.max_tokens is None else self.max_tokens,
        }
        return Request(body, run)

    def told(self, requests: Sequence[Request], readable: Callable[[str], bool]) -> list[Told]:
        """A reply to each request, or why there is none.

        Those that are recorded are not asked for again, unless what was recorded cannot be read. If the endpoint fails
        with every one of the requests that are under way together, the rest are left for another time.

        Args:
            requests: what to ask.
            readable: whether a reply is of any use.

        Raises:
            WriteError: a reply cannot be recorded.
        """
        waiting: dict[str, Request] = {}
        missing: dict[str, Missing] = {}
        for request in requests:
            known = self.replies.get(request)
            if known is None or (self.endpoint is not None and not readable(known.text)):
                waiting[request.key] = request
        if self.endpoint is None:
            missing = dict.fromkeys(waiting, Missing("no such reply is recorded, and no endpoint was given"))
        elif waiting:
            missing = self._asked(self.endpoint, list(waiting.values()))
        for request in requests:
            if request.key not in waiting:
                self.progress()
        return [missing.get(one.key) or self.replies.get(one) or Missing("was not asked for") for one in requests]

    def _asked(self, endpoint: Speaker, requests: Sequence[Request]) -> dict[str, Missing]:
        """Record replies as they come; key -> why there is none."""
        missing: dict[str, Missing] = {}
        with ThreadPoolExecutor(self.at_once) as pool:
            for start in range(0, len(requests), self.at_once):
                some = requests[start : start + self.at_once]
                sent = {pool.submit(_tried, endpoint, one): one for one in some}
                down: list[EndpointError] = []
                for future in as_completed(sent):
                    request, reply = sent[future], future.result()
                    if isinstance(reply, Completion):
                        self.replies.keep(request, reply)
                    else:
                        missing[request.key] = Missing(str(reply))
                        down += [] if reply.this_one else [reply]
                    self.progress()
                if len(down) == len(some):
                    why = Missing(f"was not asked for after {down[-1]}")
                    missing.update((one.key, why) for one in requests[start + len(some) :])
                    break
        return missing


def _tried(endpoint: Speaker, request: Request) -> Completion | EndpointError:
    try:
        return endpoint.complete(request.body)
    except EndpointError as error:
        return error
