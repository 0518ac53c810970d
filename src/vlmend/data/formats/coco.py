"""What CHAIR (arXiv 1809.02156) knows of COCO's pictures: annotated instances, reference captions, words of objects.

| file | fields |
|---|---|
| ``instances_*.json`` | ``categories`` of ``id, name``; ``annotations`` of ``image_id, category_id`` |
| ``captions_*.json`` | ``annotations`` of ``image_id, caption`` |
| synonyms | a line an object: words between commas, the first of which is its name |
| object table | picture -> its objects: what the two annotation files come to, small enough to be kept |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmend.data.formats.files import Key, Record, as_key, read_object, read_text
from vlmend.errors import DataError
from vlmend.runs import write_json

__all__ = ["SYNONYMS", "read_captions", "read_instances", "read_objects", "read_synonyms", "write_objects"]

SYNONYMS: Path = Path(__file__).parents[1] / "chair_synonyms.txt"
"""CHAIR's own list of words (BSD 2-Clause; its licence lies beside it)."""


def read_instances(path: Path | str) -> dict[Key, frozenset[str]]:
    """Picture -> the names of the categories that it has instances of.

    Raises:
        DataError: the file cannot be read, a record is not as it should be, or names a category that is not there.
    """
    path = Path(path)
    content = read_object(path)
    names = {one.key("id"): one.text("name", needed=True) for one in _records(path, content, "categories")}
    found: defaultdict[Key, set[str]] = defaultdict(set)
    for one in _records(path, content, "annotations"):
        category = one.key("category_id")
        if category not in names:
            raise one.error(f"{category!r} is no category of this file", "category_id")
        found[one.key("image_id")].add(names[category])
    return {picture: frozenset(objects) for picture, objects in found.items()}


def read_captions(path: Path | str) -> dict[Key, tuple[str, ...]]:
    """Picture -> its reference captions.

    Raises:
        DataError: the file cannot be read, or a record is not as it should be.
    """
    path = Path(path)
    found: defaultdict[Key, list[str]] = defaultdict(list)
    for one in _records(path, read_object(path), "annotations"):
        found[one.key("image_id")].append(one.text("caption", needed=True))
    return {picture: tuple(captions) for picture, captions in found.items()}


def read_objects(path: Path | str) -> dict[Key, frozenset[str]]:
    """Picture -> its objects, as ``write_objects`` wrote them.

    Raises:
        DataError: the file cannot be read, or is no object of lists of names.
    """
    path = Path(path)
    record = Record(path, 0, read_object(path))
    return {as_key(name): frozenset(record.texts(name) if record.fields[name] else ()) for name in record.fields}


def write_objects(objects: Mapping[Key, Collection[str]], path: Path | str) -> None:
    """Write picture -> its objects, to be read again without COCO's annotations."""
    write_json(Path(path), {str(picture): sorted(names) for picture, names in objects.items()})


def read_synonyms(path: Path | str = SYNONYMS) -> str:
    """A list of words as it stands in a file; its white space matters to the published evaluators.

    Raises:
        DataError: the file cannot be read, or a line begins with no name.
    """
    path = Path(path)
    text = read_text(path)
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError("a line of words for each object was expected", path=path)
    for index, line in enumerate(lines):
        if not line.split(",")[0].strip():
            raise DataError("it has no name before the first comma", path=path, record=index)
    return text


def _records(path: Path, content: Mapping[str, Any], field: str) -> Iterator[Record]:
    values = content.get(field)
    if not isinstance(values, list):
        raise DataError("is missing" if values is None else "a list was expected", path=path, field=field)
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise DataError(f"an object was expected, not {type(value).__name__}", path=path, record=index, field=field)
        yield Record(path, index, value, inside=f"{field}.")
