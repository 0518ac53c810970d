"""Arrow and Parquet files as lists of records, and records as such files that ``datasets.load_dataset`` reads.

They need the extra ``align``: datasets, and the pyarrow that it brings along. Pictures lie in them as their files'
bytes, under the feature that datasets decodes to PIL pictures.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from vlmend.data.formats.files import Record
from vlmend.errors import DataError
from vlmend.runs import whole

__all__ = ["ENDINGS", "is_columns", "read_columns", "stored", "unstored", "write_columns"]

ENDINGS = (".parquet", ".arrow")
_SAVED = "state.json"  # what `Dataset.save_to_disk` leaves beside its Arrow files


def is_columns(path: Path) -> bool:
    """Whether a path is a Parquet or Arrow file, or a folder that datasets saved."""
    return path.suffix.lower() in ENDINGS or (path / _SAVED).is_file()


def read_columns(path: Path) -> list[Record]:
    """The records of a Parquet or Arrow file, or of a folder that datasets saved; absent values are left out.

    Raises:
        DataError: it cannot be read, or the extra that reads it is not installed.
    """
    datasets = _datasets(path)
    try:
        if path.is_dir():
            table = datasets.load_from_disk(str(path), keep_in_memory=True).data.table
        elif path.suffix.lower() == ".arrow":
            table = datasets.Dataset.from_file(str(path), in_memory=True).data.table
        else:
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise DataError("cannot be read: No such file or directory", path=path) from error
    except Exception as error:  # whatever the reader comes upon in a damaged file
        why = " ".join(str(error).split())[:160]
        raise DataError(f"is no {path.suffix[1:] or 'folder'} that can be read: {why}", path=path) from error
    return list(_records(path, table.to_pylist()))


def _records(path: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[Record]:
    for index, row in enumerate(rows):
        yield Record(path, index, {name: value for name, value in row.items() if value is not None})


def write_columns(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a Parquet or Arrow file whole or not at all; ``images`` holds lists of what `stored` makes.

    Raises:
        DataError: the extra that writes it is not installed.
        WriteError: it cannot be written.
    """
    datasets = _datasets(path)
    made = datasets.Dataset.from_list([dict(record) for record in records])
    if "images" in made.column_names:
        features = made.features.copy()
        features["images"] = datasets.List(datasets.Image()) if hasattr(datasets, "List") else [datasets.Image()]
        with _without_bars(datasets):
            made = made.cast(features)
    with whole(path) as part:
        if path.suffix.lower() == ".arrow":
            import pyarrow as arrow

            table = made.data.table
            with arrow.OSFile(str(part), "wb") as file, arrow.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
        else:
            import pyarrow.parquet

            pyarrow.parquet.write_table(made.data.table, part)


def stored(picture: Path | Image.Image) -> dict[str, Any]:
    """A picture as a column holds it: its file's bytes, and its name.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(picture, Path):
        return {"bytes": picture.read_bytes(), "path": picture.name}
    content = io.BytesIO()
    picture.save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def unstored(value: Any, root: Path) -> Path | Image.Image | None:
    """A picture out of a column: the file that a text names, or what bytes hold, decoded when it is used; ``None`` for
    anything else, and for bytes that are no picture."""
    if isinstance(value, str) and value:
        return root / value
    if isinstance(value, dict):
        found: Any = value
        if found.get("bytes"):
            try:
                return Image.open(io.BytesIO(found["bytes"]))
            except OSError:
                return None
        return root / found["path"] if isinstance(found.get("path"), str) and found["path"] else None
    return None


@contextmanager
def _without_bars(datasets: Any) -> Generator[None]:
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _datasets(path: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError("Parquet and Arrow files need the extra: pip install 'vlmend[align]'", path=path) from error
    return datasets
