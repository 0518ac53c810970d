"""Answers to a benchmark, as the published evaluators take them: JSON lines or a JSON list of id and text.

| benchmark | id | text |
|---|---|---|
| POPE (as LLaVA answers it) | ``question_id`` | ``text`` or ``answer`` |
| AMBER | ``id`` | ``response`` |
| CHAIR | ``image_id`` | ``caption`` |
| Object HalBench | ``image_id`` | ``answer`` or ``text``; with its ``question`` |

CHAIR's own files hold the same under ``imgToEval``, picture by picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlmend.data.formats.files import Record, read_object, read_records, read_text
from vlmend.data.formats.saving import write_records
from vlmend.data.questions import Answer
from vlmend.errors import DataError

__all__ = ["read", "write"]

_IDS = ("question_id", "id", "image_id")
_TEXTS = ("answer", "response", "caption", "text")
_TABLE = "imgToEval"


def read(path: Path | str) -> list[Answer]:
    """The answers of one file, in its order.

    Raises:
        DataError: it cannot be read, has no answer, or a record lacks its id or its text.
    """
    path = Path(path)
    answers = [_answer(record) for record in _records(path)]
    if not answers:
        raise DataError("at least one answer was expected", path=path)
    return answers


def write(answers: Sequence[Answer], path: Path | str) -> None:
    """Write answers as ``read`` reads them: ``id``, ``response`` and, where there is one, ``question``."""
    records = [{"id": one.id, "response": one.text} | _question(one) for one in answers]
    write_records(Path(path), records, ("id", "response", "question"))


def _question(one: Answer) -> dict[str, str]:
    return {"question": one.question} if one.question else {}


def _records(path: Path) -> Iterator[Record]:
    if path.suffix.lower() == ".json" and read_text(path).lstrip().startswith("{"):
        table = read_object(path).get(_TABLE)
        if not isinstance(table, dict):
            raise DataError("is missing" if table is None else "an object was expected", path=path, field=_TABLE)
        whole = Record(path, 0, {})
        return (Record(path, index, whole.record(_TABLE, one).fields) for index, one in enumerate(table.values()))
    return iter(read_records(path))


def _answer(record: Record) -> Answer:
    return Answer(
        record.key(_present(record, _IDS, "an id")),
        record.text(_present(record, _TEXTS, "a text")),
        record.text("question"),
    )


def _present(record: Record, fields: Sequence[str], what: str) -> str:
    for field in fields:
        if field in record.fields:
            return field
    raise record.error(f"{what} is missing: one of {', '.join(fields)}")
