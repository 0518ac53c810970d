"""MM-Vet's files (arXiv 2308.02490): questions as one JSON object, and a model's answers as another.

| file | fields |
|---|---|
| questions (``mm-vet.json``) | id -> ``imagename``, ``question``, ``answer``, ``capability`` |
| answers | id -> text |

``<AND>`` and ``<OR>`` in an answer stay as they are. Any other field is kept in the question's notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlmend.data.formats.files import Record, as_key, read_object
from vlmend.data.formats.notes import notes_of, values_of
from vlmend.data.questions import Answer, OpenQuestion
from vlmend.errors import DataError
from vlmend.runs import write_json

__all__ = ["NAME", "read", "read_answers", "write", "write_answers"]

NAME: str = "MM-Vet"

_FIELDS = ("imagename", "question", "answer", "capability")


def read(path: Path | str) -> list[OpenQuestion]:
    """The questions of one file, in its order.

    Raises:
        DataError: it cannot be read, has no question, or a record is not as it should be.
    """
    path = Path(path)
    questions = [_question(name, record) for name, record in _records(path)]
    if not questions:
        raise DataError("at least one question was expected", path=path)
    return questions


def write(questions: Sequence[OpenQuestion], path: Path | str) -> None:
    """Write questions as ``read`` reads them."""
    write_json(Path(path), {str(one.id): _fields(one) for one in questions})


def read_answers(path: Path | str) -> list[Answer]:
    """A model's answers, as the published evaluator takes them.

    Raises:
        DataError: the file cannot be read, has no answer, or one is no text.
    """
    path = Path(path)
    whole = Record(path, 0, read_object(path))
    if not whole.fields:
        raise DataError("at least one answer was expected", path=path)
    return [Answer(as_key(name), whole.text(name)) for name in whole.fields]


def write_answers(answers: Sequence[Answer], path: Path | str) -> None:
    """Write answers as ``read_answers`` reads them."""
    write_json(Path(path), {str(one.id): one.text for one in answers})


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    for index, (name, fields) in enumerate(read_object(path).items()):
        yield name, Record(path, index, {}).record(name, fields)


def _question(name: str, record: Record) -> OpenQuestion:
    kinds = record.texts("capability")
    if not kinds:
        raise record.error("is missing", "capability")
    return OpenQuestion(
        id=as_key(name),
        image=record.text("imagename", needed=True),
        question=record.text("question", needed=True),
        reference=record.text("answer", needed=True),
        kinds=kinds,
        notes=notes_of(record.fields, _FIELDS),
    )


def _fields(one: OpenQuestion) -> dict[str, object]:
    values = (one.image, one.question, one.reference, list(one.kinds))
    return {**dict(zip(_FIELDS, values, strict=True)), **values_of(one.notes)}
