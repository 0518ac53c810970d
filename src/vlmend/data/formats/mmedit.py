"""MMEdit's E-VQA and E-IC files: a JSON list of flat records (arXiv 2310.08475, published with EasyEdit).

| field | meaning |
|---|---|
| ``src``, ``image``, ``alt`` | question (or caption prompt), picture, edit target |
| ``pred`` | what the model wrongly said |
| ``rephrase`` | the question in other words: text generality |
| ``image_rephrase`` | another picture of the same content: image generality |
| ``loc``, ``loc_ans`` | a question without picture that must keep its answer: text locality |
| ``m_loc``, ``m_loc_q``, ``m_loc_a`` | another picture and question that must keep their answer: image locality |

Both sets have the same fields. An empty string stands for what a record lacks; published records with an empty
target are read as they are (``request.answer == ""``) and refused by whatever would edit with them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmend.data.formats.files import json_records
from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
    EditCase,
    Example,
    Probe,
)
from vlmend.errors import DataError, MissingImageError

__all__ = ["FIELDS", "matches", "read", "write"]

FIELDS: tuple[str, ...] = (
    "src",
    "pred",
    "rephrase",
    "alt",
    "image",
    "image_rephrase",
    "loc",
    "loc_ans",
    "m_loc",
    "m_loc_q",
    "m_loc_a",
)
_REQUIRED = ("src", "alt", "image")
_KINDS = (TEXT_GENERALITY, IMAGE_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY)


def matches(record: Mapping[str, Any]) -> bool:
    """Whether a file's first record is of this format."""
    return all(field in record for field in _REQUIRED)


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> list[EditCase]:
    """Read one file.

    Args:
        path: the JSON file.
        images: the folder that image paths are relative to; the file's own by default.
        skip_missing: leave out cases that need a picture which is not there, instead of raising.
        check_images: whether to look for the pictures at all.

    Raises:
        DataError: the file cannot be read, or a field is missing or no string; names record and field.
        MissingImageError: pictures are missing; lists them.
    """
    path = Path(path)
    root = path.parent if images is None else Path(images)
    records = json_records(path)
    cases = [_case(record, index, path, root) for index, record in enumerate(records)]
    if not check_images:
        return cases
    missing = [(index, image) for index, case in enumerate(cases) for image in _images(case) if not image.is_file()]
    if missing and not skip_missing:
        raise MissingImageError(missing, path=path)
    absent = {index for index, _ in missing}
    return [case for index, case in enumerate(cases) if index not in absent]


def write(cases: Sequence[EditCase], path: Path | str) -> None:
    """Write cases as ``read`` reads them; image paths become relative to the file's folder.

    Raises:
        DataError: a case holds what the format has no place for (a picture in memory, aliases, other kinds of
            probes, two of a kind).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [_record(case, index, path) for index, case in enumerate(cases)]
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def _case(record: Any, index: int, path: Path, root: Path) -> EditCase:
    if not isinstance(record, dict):
        raise DataError(f"an object was expected, not {type(record).__name__}", path=path, record=index)
    for field in record:
        if field not in FIELDS:
            raise DataError("is not a field of this format", path=path, record=index, field=str(field))

    def text(field: str) -> str:
        if field not in record and field in _REQUIRED:
            raise DataError("is missing", path=path, record=index, field=field)
        value = record.get(field, "")
        if not isinstance(value, str):
            raise DataError(f"a string was expected, not {value!r}", path=path, record=index, field=field)
        return value

    for field in ("src", "image"):
        if not text(field):
            raise DataError("is empty", path=path, record=index, field=field)
    question, target, image = text("src"), text("alt"), root / text("image")
    probes: list[Probe] = []
    if text("rephrase"):
        probes.append(Probe(TEXT_GENERALITY, Example(text("rephrase"), image, target)))
    if text("image_rephrase"):
        probes.append(Probe(IMAGE_GENERALITY, Example(question, root / text("image_rephrase"), target)))
    if text("loc") or text("loc_ans"):
        probes.append(Probe(TEXT_LOCALITY, Example(text("loc"), None, text("loc_ans"))))
    if text("m_loc"):
        probes.append(Probe(IMAGE_LOCALITY, Example(text("m_loc_q"), root / text("m_loc"), text("m_loc_a"))))
    elif text("m_loc_q") or text("m_loc_a"):
        raise DataError("is empty, but its question or answer is not", path=path, record=index, field="m_loc")
    return EditCase(
        id=f"{path.stem}-{index}",
        request=Example(question, image, target),
        rejected=text("pred") or None,
        probes=tuple(probes),
        source=path.name,
    )


def _images(case: EditCase) -> Iterable[Path]:
    """The case's picture files, each once, in their order."""
    examples = (case.request, *(probe.example for probe in case.probes))
    return dict.fromkeys(example.image for example in examples if isinstance(example.image, Path))


def _record(case: EditCase, index: int, path: Path) -> dict[str, str]:
    def refuse(problem: str) -> DataError:
        return DataError(f"case '{case.id}' cannot be written as MMEdit: {problem}", path=path, record=index)

    def relative(example: Example) -> str:
        if not isinstance(example.image, Path):
            raise refuse("a picture must be a file")
        return Path(os.path.relpath(example.image, path.parent)).as_posix()

    if not case.request.question:
        raise refuse("the question is empty")
    if case.request.aliases or any(probe.example.aliases for probe in case.probes):
        raise refuse("it has no place for aliases")
    found: dict[str, Example] = {}
    for probe in case.probes:
        if probe.kind not in _KINDS or probe.kind in found:
            raise refuse(f"it has no place for this '{probe.kind}' probe")
        found[probe.kind] = probe.example
    target = case.request.answer or ""
    record: dict[str, str] = dict.fromkeys(FIELDS, "")
    record |= {"src": case.request.question, "alt": target, "image": relative(case.request)}
    record["pred"] = case.rejected or ""
    if example := found.get(TEXT_GENERALITY):
        if example.image != case.request.image or example.answer != target:
            raise refuse("a text generality probe has the request's picture and target")
        record["rephrase"] = example.question
    if example := found.get(IMAGE_GENERALITY):
        if example.question != case.request.question or example.answer != target:
            raise refuse("an image generality probe has the request's question and target")
        record["image_rephrase"] = relative(example)
    if example := found.get(TEXT_LOCALITY):
        if example.image is not None:
            raise refuse("a text locality probe has no picture")
        record |= {"loc": example.question, "loc_ans": example.answer or ""}
    if example := found.get(IMAGE_LOCALITY):
        record |= {"m_loc": relative(example), "m_loc_q": example.question, "m_loc_a": example.answer or ""}
    return record
