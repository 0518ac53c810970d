"""MMHal-Bench's file (arXiv 2309.14525): a JSON list of questions, into which a model's answers are written.

| field | meaning |
|---|---|
| ``question_type``, ``question_topic`` | what is asked for (eight types); what the picture is of |
| ``image_id``, ``image_src`` | the picture in Open Images; its address, from which nothing is fetched here |
| ``image_content`` | names of what the picture shows, for who does not see it |
| ``question``, ``gt_answer`` | what is asked, and the right answer |
| ``model_answer`` | empty in the published file |

A question's id is its place in the file, from 0. Topic, address and any other field are kept in its notes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from vlmend.data.formats.files import Record, read_records
from vlmend.data.formats.notes import notes_of, values_of
from vlmend.data.formats.saving import write_records
from vlmend.data.questions import Answer, Key, OpenQuestion
from vlmend.errors import DataError

__all__ = ["NAME", "read", "read_answers", "source_name", "write"]

NAME: str = "MMHal-Bench"

_FIELDS = ("question_type", "image_id", "image_content", "question", "gt_answer")
_ANSWER, _SOURCE = "model_answer", "image_src"


def read(path: Path | str) -> list[OpenQuestion]:
    """The questions of one file, in its order.

    Raises:
        DataError: it cannot be read, has no question, or a record is not as it should be.
    """
    return [_question(record) for record in _records(Path(path))]


def read_answers(path: Path | str) -> list[Answer]:
    """The answers that a model's file has.

    Raises:
        DataError: the file cannot be read, or a record has none.
    """
    return [Answer(record.index, record.text(_ANSWER, needed=True)) for record in _records(Path(path))]


def write(questions: Sequence[OpenQuestion], path: Path | str, answers: Sequence[Answer] = ()) -> None:
    """Write questions, and answers to them, as ``read`` and ``read_answers`` read them."""
    texts = {one.id: one.text for one in answers}
    write_records(Path(path), [_fields(one, texts) for one in questions], ())


def source_name(question: OpenQuestion) -> str:
    """The name that the picture's file has at its source; empty where none is told."""
    notes: Mapping[str, str] = dict(question.notes)
    source = json.loads(notes.get(_SOURCE, '""'))
    return PurePosixPath(urlsplit(source).path).name if isinstance(source, str) else ""


def _records(path: Path) -> list[Record]:
    records = read_records(path)
    if not records:
        raise DataError("at least one question was expected", path=path)
    return records


def _question(record: Record) -> OpenQuestion:
    return OpenQuestion(
        id=record.index,
        image=str(record.key("image_id")),
        question=record.text("question", needed=True),
        reference=record.text("gt_answer", needed=True),
        kinds=(record.text("question_type", needed=True),),
        context=", ".join(record.texts("image_content")),
        notes=notes_of(record.fields, (*_FIELDS, _ANSWER)),
    )


def _fields(one: OpenQuestion, answers: Mapping[Key, str]) -> dict[str, object]:
    content = one.context.split(", ") if one.context else []
    values = (one.kinds[0], one.image, content, one.question, one.reference)
    return {
        **dict(zip(_FIELDS, values, strict=True)),
        **values_of(one.notes),
        _ANSWER: answers.get(one.id, ""),
    }
