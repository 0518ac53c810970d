"""Object HalBench's questions (arXiv 2312.00849, as RLAIF-V keeps them): JSON lines with the pictures inside.

| field | meaning |
|---|---|
| ``image_id`` | COCO's id of the picture |
| ``question`` | what is asked |
| ``image`` | the picture's file in base64 |

Any other field is kept in the question's notes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

from vlmend.data.formats.files import Record, read_records
from vlmend.data.formats.notes import notes_of, values_of
from vlmend.data.formats.saving import write_records
from vlmend.data.questions import ObjectQuestion
from vlmend.errors import DataError

__all__ = ["NAME", "read", "write"]

NAME: str = "Object HalBench"

_FIELDS = ("image_id", "question", "image")


def read(path: Path | str) -> list[ObjectQuestion]:
    """The questions of one file.

    Raises:
        DataError: it cannot be read, has no question, or a record is not as it should be.
    """
    path = Path(path)
    records = read_records(path, lines=True)
    if not records:
        raise DataError("at least one question was expected", path=path)
    return [_question(record) for record in records]


def write(questions: Sequence[ObjectQuestion], path: Path | str) -> None:
    """Write questions as ``read`` reads them, to a file called ``.jsonl``."""
    write_records(Path(path), [_fields(one) for one in questions], ())


def _question(record: Record) -> ObjectQuestion:
    try:
        picture = base64.b64decode(record.text("image", needed=True), validate=True)
    except binascii.Error as error:
        raise record.error(f"is not base64: {error}", "image") from error
    notes = notes_of(record.fields, _FIELDS)
    return ObjectQuestion(record.key("image_id"), record.text("question", needed=True), picture, notes)


def _fields(one: ObjectQuestion) -> dict[str, object]:
    picture = base64.b64encode(one.picture).decode("ascii")
    return {**dict(zip(_FIELDS, (one.image_id, one.question, picture), strict=True)), **values_of(one.notes)}
