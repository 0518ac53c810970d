"""The run folder of anything long: records are appended and flushed as they happen, so that a killed run goes on.

``run.json`` holds the settings, ``records.jsonl`` one line per case, ``metrics.json`` the result. A run that is
started again with equal settings finds its finished records; with other settings it is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vlmend.errors import RunError

__all__ = ["Run", "write_json"]


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
