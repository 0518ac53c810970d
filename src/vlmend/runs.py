"""The run folder of anything long: records are appended and flushed as they happen, so that a killed run goes on.

``run.json`` holds the settings, ``records.jsonl`` one line per case, ``metrics.json`` the result. A run that is
started again with equal settings finds its finished records; with other settings it is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from vlmend.errors import RunError

__all__ = ["Log", "Part", "Run", "write_json"]


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


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON so that a reader sees either the old file or the whole new one."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


class Run:
    """One run folder, opened for writing.

    Args:
        folder: made if absent.
        settings: everything the records depend on; compared with those of an earlier start.

    Raises:
        RunError: the folder holds a run with other settings, or an unreadable ``run.json``.
    """

    def __init__(self, folder: Path | str, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(dict(settings)))
        about = self.folder / "run.json"
        if about.exists():
            try:
                found = json.loads(about.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RunError(f"{about} is not readable JSON: {error}") from error
            if found != wanted:
                differ = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
                raise RunError(f"{self.folder} holds a run with other settings ({', '.join(differ)})")
        else:
            write_json(about, wanted)
        self.records = self._finished()
        self._file = (self.folder / "records.jsonl").open("a", encoding="utf-8")

    def _finished(self) -> list[dict[str, Any]]:
        """Whole records of an earlier start; a last line cut short by a kill is dropped from the file too."""
        path = self.folder / "records.jsonl"
        if not path.exists():
            return []
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise RunError(f"{path} holds a line that is not JSON: {error}") from error

    def part(self, **labels: Any) -> Part:
        """The records with these labels, as a log of its own among the others of this run."""
        return Part(self, labels)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; it is on disk when this returns."""
        plain = json.loads(json.dumps(dict(record)))
        self._file.write(json.dumps(plain, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records.append(plain)

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write ``metrics.json``."""
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
