"""POPE's files (arXiv 2305.10355): JSON lines, whatever their name, of yes/no questions on objects in a picture.

| field | meaning |
|---|---|
| ``question_id`` | its number within the file |
| ``image`` | the picture's file |
| ``text`` | "Is there a … in the image?" |
| ``label`` | "yes" or "no" |

Any other field is kept in the question's notes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from vlmend.data.formats.files import Record, only_once, read_records
from vlmend.data.formats.notes import notes_of, values_of
from vlmend.data.questions import YES_NO, YesNoQuestion
from vlmend.errors import DataError
from vlmend.runs import whole

__all__ = ["NAME", "read", "write"]

NAME: str = "POPE"

_FIELDS = ("question_id", "image", "text", "label")


def read(path: Path | str) -> list[YesNoQuestion]:
    """The questions of one file.

    Raises:
        DataError: it cannot be read, has no question, a record is not as it should be, or two have one id.
    """
    path = Path(path)
    records = read_records(path, lines=True)
    if not records:
        raise DataError("at least one question was expected", path=path)
    questions = [_question(record) for record in records]
    only_once(records, [question.id for question in questions], "question_id")
    return questions


def write(questions: Sequence[YesNoQuestion], path: Path | str) -> None:
    """Write questions as ``read`` reads them."""
    with whole(Path(path)) as part:
        part.write_text("".join(json.dumps(_fields(one), ensure_ascii=False) + "\n" for one in questions), "utf-8")


def _question(record: Record) -> YesNoQuestion:
    return YesNoQuestion(
        id=record.key("question_id"),
        image=record.text("image", needed=True),
        question=record.text("text", needed=True),
        answer=record.choice("label", YES_NO),
        notes=notes_of(record.fields, _FIELDS),
    )


def _fields(one: YesNoQuestion) -> dict[str, object]:
    values = (one.id, one.image, one.question, one.answer)
    return {**dict(zip(_FIELDS, values, strict=True)), **values_of(one.notes)}
