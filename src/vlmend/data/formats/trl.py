"""Preferences in TRL's columns, one's own and those that `vlmend pairs` writes: JSON lines, JSON, CSV, Parquet, Arrow.

| column | meaning |
|---|---|
| ``prompt`` (or ``question``) | the question: a text, or a list of messages ``role, content`` |
| ``chosen``, ``rejected`` | the answers: texts, or lists of messages; without ``prompt`` they begin with it |
| ``images`` (or ``image``) | the pictures: files, or in columns their bytes |
| ``id``, ``origin`` | the pair's name, and how its worse answer came to be |
| ``chosen_spans``, ``rejected_spans`` | the characters in which the answers differ: lists of ``[start, end]`` |
| ``notes`` | what else is known, as an object (in columns: its JSON text) |

``write`` writes messages: TRL gives a pair of plain texts with a picture no end token. Fields that are not in this list
are kept as notes. A conversation of several turns is an error: a pair is one question with two answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmend.data.formats.columns import ENDINGS, stored, unstored, write_columns
from vlmend.data.formats.files import Record
from vlmend.data.formats.notes import notes_of, values_of
from vlmend.data.formats.pairing import EMPTY, Preferences, as_pictures, pairs_of, picture_name
from vlmend.data.formats.saving import is_table, write_records
from vlmend.data.records import PreferencePair, SkippedPair, Span
from vlmend.errors import DataError
from vlmend.models.pictures import Picture
from vlmend.models.prompts import MARKER

__all__ = ["FIELDS", "KNOWN", "NAME", "NEEDED", "matches", "read", "write"]

NAME: str = "TRL"

NEEDED: tuple[str, ...] = ("chosen", "rejected")
"""The fields that a file is known by."""

FIELDS: tuple[str, ...] = (
    *("id", "prompt", "chosen", "rejected", "images"),
    *("origin", "chosen_spans", "rejected_spans", "notes"),
)
KNOWN: tuple[str, ...] = (*FIELDS, "question", "image")
EQUAL = "two equal answers"


def matches(records: Sequence[Record]) -> bool:
    """Whether a file with these records is of this format."""
    return {*NEEDED} <= {*records[0].fields}


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> Preferences:
    """Read one file; arguments and errors as in ``pairing.pairs_of``."""
    return pairs_of(Path(path), images, _pairs, skip_missing=skip_missing, check_images=check_images)


def write(pairs: Sequence[PreferencePair], path: Path | str) -> None:
    """Write pairs as ``read`` reads them, in the form that the file's name says.

    Image paths become relative to the file's folder; Parquet and Arrow files hold the pictures themselves, so that
    ``datasets.load_dataset`` gives what TRL takes.

    Raises:
        DataError: a picture in memory has no place in a text file, or cannot be read for a column; or the file is a
            table of cells, in which messages have no place.
        WriteError: it cannot be written.
    """
    path = Path(path)
    if is_table(path):
        raise DataError("pairs are written as .jsonl, .json, .parquet or .arrow", path=path)
    columns = path.suffix.lower() in ENDINGS
    # in columns all contents are of one type
    parts = any(_marked_inside(pair) for pair in pairs)
    made = [_record(pair, index, path, columns=columns, parts=parts) for index, pair in enumerate(pairs)]
    if columns:
        write_columns(path, made)
    else:
        write_records(path, made, FIELDS)


# Records into pairs


def _pairs(record: Record, root: Path) -> Iterator[PreferencePair | SkippedPair]:
    given = str(record.fields.get("id") or f"{record.path.stem}-{record.index}")
    before, chosen = _answer(record, "chosen")
    other, rejected = _answer(record, "rejected")
    if not chosen or not rejected:
        yield SkippedPair(given, EMPTY)
        return
    if chosen == rejected:
        yield SkippedPair(given, EQUAL)
        return
    name = "prompt" if "prompt" in record.fields else "question"
    if name in record.fields:
        question = _question(record, name, _messages(record, name))
    elif before and before == other:
        question = _question(record, "chosen", before)
    else:
        raise record.error("is missing", "prompt")
    pictures = _pictures(record, root)
    if question.count(MARKER) not in (0, len(pictures)):
        raise record.error(f"{question.count(MARKER)} times {MARKER} for {len(pictures)} picture(s)", name)
    notes = record.fields.get("notes") or {}
    if isinstance(notes, str):
        notes = Record(record.path, record.index, {"notes": notes}, record.line, cells=True).value("notes") or {}
    rest = {key: value for key, value in record.fields.items() if key not in KNOWN and _plain(value)}
    yield PreferencePair(
        id=given,
        question=question,
        chosen=chosen,
        rejected=rejected,
        image=as_pictures(pictures),
        chosen_spans=_spans(record, "chosen_spans", chosen),
        rejected_spans=_spans(record, "rejected_spans", rejected),
        origin=record.text("origin"),
        notes=notes_of({**record.record("notes", notes).fields, **rest}),
    )


def _plain(value: Any) -> bool:
    """Whether a value can be a note: what a column may hold beside (bytes, times) cannot."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _answer(record: Record, field: str) -> tuple[list[Mapping[str, Any]], str]:
    """The messages before an answer, and its text."""
    messages = _messages(record, field)
    if not messages or messages[-1].get("role", "assistant") != "assistant":
        raise record.error("it does not end with an answer", field)
    return messages[:-1], _text(record, field, messages[-1]).strip()


def _messages(record: Record, field: str) -> list[Mapping[str, Any]]:
    value = record.fields.get(field)
    if isinstance(value, str):
        return [{"content": value}]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        problem = "is missing" if value is None else "a text or a list of messages was expected"
        raise record.error(problem, field)
    return value


def _question(record: Record, field: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """The one question of some messages; what the system is told stands before it."""
    roles = [str(one.get("role", "user")) for one in messages]
    if [role for role in roles if role != "system"] != ["user"]:
        raise record.error(f"one question was expected, not turns of {', '.join(roles) or 'nobody'}", field)
    question = "\n".join(filter(None, (_text(record, field, one) for one in messages)))
    if not question.replace(MARKER, "").strip():
        raise record.error("is empty", field)
    return question


def _text(record: Record, field: str, message: Mapping[str, Any]) -> str:
    """A message's text, with `MARKER` where a part of it is a picture."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise record.error("a message's content is a text or a list of parts", field)
    parts: list[dict[str, Any]] = content
    pieces = [MARKER if part.get("type") == "image" else str(part.get("text") or "") for part in parts]
    # pictures before all words are where pictures are without a marker
    while pieces and pieces[0] == MARKER:
        pieces.pop(0)
    leading = len(parts) - len(pieces)
    return (MARKER * leading if MARKER in pieces else "") + "".join(pieces)


def _pictures(record: Record, root: Path) -> list[Picture]:
    name = "images" if record.fields.get("images") else "image"
    value = record.fields.get(name)
    if isinstance(value, str) and record.cells:
        value = list(record.texts(name))
    values: list[Any] = [] if value is None or value == "" else value if isinstance(value, list) else [value]
    found = [unstored(one, root) for one in values]
    kept = [one for one in found if one is not None]
    if len(kept) < len(found):
        raise record.error("a picture is neither a file's name nor the bytes of one", name)
    return kept


def _spans(record: Record, field: str, text: str) -> tuple[Span, ...]:
    value = record.fields.get(field)
    if isinstance(value, str):
        value = record.value(field)
    spans: list[Any] = value or []
    for one in spans:
        if not isinstance(one, list) or len(one) != 2 or not all(type(place) is int for place in one):
            raise record.error(f"lists of start and end were expected, not {one!r}", field)
        if not 0 <= one[0] <= one[1] <= len(text):
            raise record.error(f"{one!r} does not lie in the answer, which has {len(text)} characters", field)
    return tuple((one[0], one[1]) for one in spans)


# Pairs into records


def _marked_inside(pair: PreferencePair) -> bool:
    """Whether a picture stands behind a word."""
    return MARKER in pair.question and _behind(pair.question) is None


def _behind(question: str) -> str | None:
    """What stands behind the pictures; ``None`` where one stands elsewhere than in front."""
    rest = question.rpartition(MARKER)[2]
    before = question[: len(question) - len(rest)]
    return None if before.replace(MARKER, "").strip() else rest.lstrip("\n") if before else rest


def _record(pair: PreferencePair, index: int, path: Path, *, columns: bool, parts: bool) -> dict[str, Any]:
    def refuse(problem: str) -> DataError:
        return DataError(f"pair '{pair.id}' cannot be written: {problem}", path=path, record=index)

    try:
        images: list[Any] = [*map(stored, pair.pictures)] if columns else picture_name(pair, path, refuse)
    except OSError as error:
        raise refuse(f"its picture cannot be read: {error.strerror or error}") from error
    made: dict[str, Any] = {
        "id": pair.id,
        "prompt": [{"role": "user", "content": _content(pair, parts)}],
        "chosen": [{"role": "assistant", "content": _wrapped(pair.chosen, parts)}],
        "rejected": [{"role": "assistant", "content": _wrapped(pair.rejected, parts)}],
        "images": images,
        "origin": pair.origin,
        "chosen_spans": [list(span) for span in pair.chosen_spans],
        "rejected_spans": [list(span) for span in pair.rejected_spans],
    }
    notes = values_of(pair.notes)
    return made | {"notes": json.dumps(notes, ensure_ascii=False) if columns else notes}


def _content(pair: PreferencePair, parts: bool) -> Any:
    if not parts:
        return _behind(pair.question)
    pieces = pair.question.split(MARKER)
    if len(pieces) == 1:
        pieces = [""] * len(pair.pictures) + pieces
    found: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        found += [{"type": "image", "text": None}] if number else []
        found += [{"type": "text", "text": piece}] if piece else []
    return found


def _wrapped(answer: str, parts: bool) -> Any:
    return [{"type": "text", "text": answer}] if parts else answer
