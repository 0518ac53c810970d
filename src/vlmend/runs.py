"""The run folder of anything long: records are appended and flushed as they happen, so that a killed run goes on.

``run.json`` holds the settings, ``records.jsonl`` one line per case, ``metrics.json`` the result. A run that is
started again with equal settings finds its finished records; with other settings it is an error. Several processes
share a folder: the first writes ``records.jsonl``, each other one a file of its own beside it, and records say which.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from vlmend.errors import RunError, WriteError
from vlmend.ranks import ALONE, Ranks
from vlmend.words import counted

__all__ = ["Lines", "Log", "Part", "Run", "check_folder", "read_lines", "whole", "write_json"]

_ABOUT = "run.json"
_NAMED, _LONGEST = 3, 40  # differences in a complaint, and characters of a value there
_UNSET = object()
_SEEN = 30.0  # seconds until a file must be seen by other machines; NFS looks again after a few


class Log(Protocol):
    """What something long needs of a run: the records that are finished, and a place for the next."""

    @property
    def records(self) -> Sequence[Mapping[str, Any]]: ...

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record."""
        ...

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Take the result."""
        ...


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """Write a file so that a reader sees either the old one or the whole new one, even if the machine stops.

    The block is given another path to write to, beside this one; its folder is made.

    Raises:
        WriteError: the disk is full, or the file cannot be written for another reason; nothing half-written is left.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Refuse a place for a folder where a file is, or that lies below one.

    Raises:
        RunError: it is such a place.
    """
    for place in (folder, *folder.parents):
        if place.is_file():
            raise RunError(f"{place} is a file; name a folder")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole records of a file of JSON lines; none if there is no file, and no last line that was cut short.

    Raises:
        RunError: a line is not a JSON object.
    """
    return _parsed(path, _whole_lines(path.read_bytes())) if path.exists() else []


class Lines:
    """A file of JSON lines that only grows, each line on disk before the next; a last line cut short is dropped.

    Attributes:
        path: of the file, which is made if absent.
        records: those in it.

    Raises:
        RunError: a line is not a JSON object.
        WriteError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        whole = _whole_lines(content)
        self.records = _parsed(path, whole)
        try:
            self._file = path.open("ab", buffering=0)
            if len(whole) < len(content):
                self._file.truncate(len(whole))
        except OSError as error:
            raise WriteError(path, error) from error

    def append(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Add one record, and give it as it will be read; it is on disk when this returns.

        Raises:
            WriteError: it cannot be written; the records before it are as they were.
        """
        plain = json.loads(json.dumps(dict(record)))
        left = memoryview((json.dumps(plain, ensure_ascii=False) + "\n").encode())
        end = os.fstat(self._file.fileno()).st_size
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            raise WriteError(self.path, error) from error
        self.records.append(plain)
        return plain

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _parsed(path: Path, content: bytes) -> list[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in content.splitlines()]
    except ValueError as error:
        raise RunError(f"{path} holds a line that is not JSON: {error}") from error
    if not all(isinstance(one, dict) for one in found):
        raise RunError(f"{path} holds a line that is no JSON object")
    return found


class Run:
    """One run folder, opened for writing.

    Args:
        folder: made if absent.
        settings: everything the records depend on; compared with those of an earlier start.
        ranks: the processes that share it; the first makes it, the others wait for that.

    Raises:
        RunError: the folder holds a run with other settings (says which), or an unreadable ``run.json``, is not shared
            with the first process, or is a file.
        WriteError: it cannot be written.

    Used as a context: an error within leaves a note of the records kept; a new run without any leaves no folder.
    """

    def __init__(self, folder: Path | str, settings: Mapping[str, Any], ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self.folder = Path(folder)
        if ranks.first:
            self._open(settings)
            ranks.wait()
        else:
            ranks.wait()
            self._found()
            self._open(settings)

    def _found(self) -> None:
        """Wait until what the first process has made is seen here; a file system that is shared takes a while.

        Raises:
            RunError: it is not.
        """
        until = time.monotonic() + _SEEN
        while not (self.folder / _ABOUT).exists():
            if time.monotonic() > until:
                raise RunError(
                    f"process {self._ranks.index} does not see {self.folder / _ABOUT}, which the first has made: on "
                    "several machines a run needs a folder that all of them share"
                )
            time.sleep(0.1)

    def _open(self, settings: Mapping[str, Any]) -> None:
        check_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(dict(settings)))
        about = self.folder / _ABOUT
        self._new = not about.exists()
        if not self._new:
            try:
                found = json.loads(about.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RunError(f"{about} is not readable JSON: {error}") from error
            if found != wanted:
                raise RunError(
                    f"{self.folder} holds a run with {_told(found, wanted)}: write to another --out, or give the "
                    "settings of before"
                )
        else:
            try:
                write_json(about, wanted)
            except WriteError:
                self._discard()
                raise
        self._path = self.folder / (f"records.rank{self._ranks.index}.jsonl" if self._ranks.index else "records.jsonl")
        files = [self._path, *sorted(path for path in self.folder.glob("records*.jsonl") if path != self._path)]
        self._file = Lines(self._path)
        others = [record for path in files if path != self._path for record in read_lines(path)]
        self.records = [*self._file.records, *others]

    def part(self, **labels: Any) -> Part:
        """The records with these labels, as a log of its own among the others of this run."""
        return Part(self, labels)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; it is on disk when this returns.

        Raises:
            WriteError: it cannot be written; the records before it are as they were.
        """
        mark = {"rank": self._ranks.index} if self._ranks.count > 1 else {}
        self.records.append(self._file.append(mark | dict(record)))

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``; the first process does."""
        if self._ranks.first:
            write_json(self.folder / "metrics.json", dict(metrics))

    def close(self) -> None:
        """Close the record file; the folder stays."""
        self._file.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            return
        if self.records:
            count = len(self.records)
            kept = "1 finished record, and a run into it goes on after it"
            kept = kept if count == 1 else f"{count} finished records, and a run into it goes on after them"
            error.add_note(f"{self.folder} keeps {kept}")
        elif self._new and self._ranks.count == 1:
            self._discard()

    def _discard(self) -> None:
        """Remove a run without records, and its folder if nothing else is in it."""
        for name in (_ABOUT, "records.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def _told(before: Any, given: Any) -> str:
    """How settings differ, in words: the first few, those that one side lacks last."""
    differ = [told for _, told in sorted(_differences(before, given), key=lambda one: one[0])]
    more = [f"and {len(differ) - _NAMED} more"] if len(differ) > _NAMED else []
    return "; ".join([*differ[:_NAMED], *more])


def _differences(before: Any, given: Any, above: str = "") -> Iterator[tuple[bool, str]]:
    """Of every setting that differs, by its path: whether one side lacks it, and what it was and is."""
    for key in sorted({*before, *given}):
        old, new, name = before.get(key, _UNSET), given.get(key, _UNSET), f"{above}{key}"
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and old.get("hash") == new.get("hash"):
            yield from _differences(old, new, f"{name}.")
        else:
            words = (_shown(old), _shown(new))
            told = f"other {name}" if words[0] == words[1] else f"{name}={words[0]}, not {words[1]}"
            yield _UNSET in (old, new), told


def _shown(value: Any) -> str:
    """A setting's value, short; data, which has a hash, by how much there is of it."""
    if isinstance(value, dict):
        return counted(value["count"], "record") if {"count", "hash"} <= {*value} else "set"
    text = "unset" if value is _UNSET else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


class Part:
    """Some of a run's records, marked by labels that they all have and that are not shown here.

    ``metrics`` is what the part ended with; the run's own metrics are its owner's to write.
    """

    def __init__(self, run: Run, labels: Mapping[str, Any]) -> None:
        self._run = run
        self._labels = dict(labels)
        self.metrics: Mapping[str, Any] | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """The finished records, without the labels."""
        mine = (
            record
            for record in self._run.records
            if all(record.get(key) == value for key, value in self._labels.items())
        )
        return [{key: value for key, value in record.items() if key not in self._labels} for record in mine]

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; it is on disk when this returns."""
        self._run.append({**self._labels, **record})

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Keep what this part ended with."""
        self.metrics = dict(metrics)
