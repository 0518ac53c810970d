"""What a judge replied, by what it was asked: recorded as it comes, and replayed without network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vlmend.endpoints import Completion
from vlmend.errors import RunError
from vlmend.runs import Lines, read_lines

__all__ = ["Replies", "Request"]


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        body: as it is sent: model, messages, temperature, longest reply.
        run: which time the same is asked, from 0.
    """

    body: Mapping[str, Any]
    run: int = 0

    @property
    def key(self) -> str:
        """A hash of all of it; nothing of where it is sent to."""
        content = json.dumps([dict(self.body), self.run], sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


class Replies:
    """Replies by request.

    Args:
        path: JSON lines of ``key``, ``run``, ``request``, ``reply``, ``model``; made if absent, and added to. Without
            one, replies are kept for as long as this lives.
        more: such files of other runs, which are read alone.

    Raises:
        RunError: a file is no such file, or ``more`` names one that is not there.
        WriteError: the first cannot be written.

    Of several replies to one request the last counts. Used as a context it closes the file.
    """

    def __init__(self, path: Path | None = None, more: Iterable[Path] = ()) -> None:
        self._known: dict[str, Completion] = {}
        for other in more:
            if not other.is_file():
                raise RunError(f"{other}: there is no such file of recorded replies")
            self._take(other, read_lines(other))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = None if path is None else Lines(path)
        if self._file is not None:
            self._take(self._file.path, self._file.records)

    def get(self, request: Request) -> Completion | None:
        """The reply to a request, if there is one."""
        return self._known.get(request.key)

    def keep(self, request: Request, reply: Completion) -> None:
        """Record one more; it is on disk when this returns.

        Raises:
            WriteError: it cannot be written.
        """
        if self._file is not None:
            self._file.append(
                {
                    "key": request.key,
                    "run": request.run,
                    "request": dict(request.body),
                    "reply": reply.text,
                    "model": reply.model,
                }
            )
        self._known[request.key] = reply

    def __len__(self) -> int:
        return len(self._known)

    def __enter__(self) -> Replies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _take(self, path: Path, records: Iterable[Mapping[str, Any]]) -> None:
        for index, record in enumerate(records):
            values = [record.get(name) for name in ("key", "reply", "model")]
            if not all(isinstance(one, str) for one in values):
                raise RunError(f"{path}, record {index}: key, reply and model of a judge's reply were expected")
            key, text, model = map(str, values)
            self._known[key] = Completion(text, model)
