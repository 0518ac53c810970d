"""MMEdit's E-VQA and E-IC files: a JSON list of flat records (arXiv 2310.08475, published with EasyEdit).

| field | meaning |
|---|---|
| ``src``, ``image``, ``alt`` | question (or caption prompt), picture, edit target |
| ``pred`` | what the model wrongly said |
| ``rephrase``, ``image_rephrase``, ``loc``, ... | the probes, see ``flat.py`` |

Both sets have the same fields. An empty string stands for what a record lacks; published records with an empty
target are read as they are (``request.answer == ""``) and refused by whatever would edit with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlmend.data.formats import flat
from vlmend.data.formats.files import Record
from vlmend.data.formats.reading import Refuse, picture_name, read_cases, refusal
from vlmend.data.formats.saving import write_records
from vlmend.data.records import EditCase, Example

__all__ = ["FIELDS", "NAME", "fields_of", "matches", "read", "to_case", "write"]

NAME: str = "MMEdit"

FIELDS: tuple[str, ...] = ("src", "pred", "rephrase", "alt", "image", *flat.FIELDS[1:])
_REQUIRED = ("src", "alt", "image")


def matches(records: Sequence[Record]) -> bool:
    """Whether a file with these records is of this format: the first lacks at most one of the required fields."""
    return sum(field in records[0].fields for field in _REQUIRED) >= len(_REQUIRED) - 1


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> list[EditCase]:
    """Read one file; arguments and errors as in ``reading.read_cases``."""
    return read_cases(path, images, _case, skip_missing=skip_missing, check_images=check_images)


def write(cases: Sequence[EditCase], path: Path | str) -> None:
    """Write cases as ``read`` reads them; image paths become relative to the file's folder.

    Raises:
        DataError: a case holds what the format has no place for (a picture in memory, aliases, other kinds of
            probes, two of a kind).
    """
    path = Path(path)
    records = [fields_of(case, path, refusal(case, index, path, NAME)) for index, case in enumerate(cases)]
    write_records(path, records, FIELDS, flat.LISTS)


def to_case(record: Record, root: Path) -> EditCase:
    """The case that a record's fields of this format make; other fields are not looked at."""
    for field in FIELDS:
        record.text(field)  # each is a string
    for field in ("src", "image"):
        record.text(field, needed=True)
    if "alt" not in record.fields:
        raise record.error("is missing", "alt")
    request = Example(record.text("src"), root / record.text("image"), record.text("alt"))
    return EditCase(
        id=f"{record.path.stem}-{record.index}",
        request=request,
        rejected=record.text("pred") or None,
        probes=tuple(flat.read_probes(record, request, root)),
        source=record.path.name,
    )


def fields_of(case: EditCase, path: Path, refuse: Refuse) -> dict[str, str]:
    """The fields of a case in a file at ``path``; what has no place is refused."""
    if not case.request.question:
        raise refuse("the question is empty")
    if case.request.aliases:
        raise refuse("it has no place for aliases")
    if case.notes:
        raise refuse("it has no place for notes")
    if case.counterfactual:
        raise refuse("it cannot say that a target is made up")

    def name(example: Example) -> str:
        return picture_name(example, path, refuse)

    fields = {
        "src": case.request.question,
        "pred": case.rejected or "",
        "alt": case.request.answer or "",
        "image": name(case.request),
        **flat.write_probes(case, name, refuse),
    }
    return {field: fields[field] for field in FIELDS}


def _case(record: Record, root: Path) -> EditCase:
    for field in record.fields:
        if field not in FIELDS:
            raise record.error("is not a field of this format", field)
    return to_case(record, root)
