"""LLaVA-Bench's files (arXiv 2304.08485): JSON lines of questions, contexts and reference answers.

| file | in the wild | COCO | record |
|---|---|---|---|
| questions | ``questions.jsonl`` | ``qa90_questions.jsonl`` | ``question_id``, ``image``, ``text``, ``category`` |
| contexts | ``context.jsonl`` | ``caps_boxes_coco2014_val_80.jsonl`` | ``image``, ``caption`` (or as below) |
| references | ``answers_gpt4.jsonl`` | ``qa90_gpt4_answer.jsonl`` | ``question_id``, ``text`` |

``category`` is conv, detail or complex. A context of COCO has several ``captions``, and ``instances`` of ``category``
and ``bbox``; what the judge is told of it is a line each. A rule file (``rule.json``) holds the published prompts:
category, after ``llava_bench_`` for those in the wild -> ``role``, ``prompt``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vlmend.data.formats.answers import read as read_answers
from vlmend.data.formats.files import Key, Record, only_once, read_object, read_records
from vlmend.data.questions import OpenQuestion
from vlmend.errors import DataError

__all__ = ["KINDS", "NAME", "Rules", "read", "read_rules"]

NAME: str = "LLaVA-Bench"

KINDS: Mapping[str, str] = {kind: kind for kind in ("conv", "detail", "complex")}
"""The three categories."""

Rules = Mapping[str, tuple[str, str]]
"""Category -> what an assistant is called, and what the judge is told."""


def read(questions: Path | str, contexts: Path | str, references: Path | str) -> list[OpenQuestion]:
    """The questions of one file, with what two others have of their pictures, and as answers to them.

    Raises:
        DataError: a file cannot be read, a record is wrong, two have one id, or a question has no context or reference.
    """
    asked = _records(Path(questions))
    only_once(asked, [record.key("question_id") for record in asked], "question_id")
    shown = {_name(record): _context(record) for record in _records(Path(contexts))}
    said = {answer.id: answer.text for answer in read_answers(references)}
    return [_question(record, shown, said, (str(contexts), str(references))) for record in asked]


def read_rules(path: Path | str, *, wild: bool = True) -> Rules:
    """The published prompts, by category, of the benchmark in the wild, or of COCO's.

    Raises:
        DataError: the file cannot be read, or lacks a category.
    """
    path = Path(path)
    whole = Record(path, 0, read_object(path))
    rules: dict[str, tuple[str, str]] = {}
    for kind in KINDS:
        name = f"llava_bench_{kind}" if wild else kind
        if name not in whole.fields:
            raise DataError("is missing", path=path, field=name)
        rule = whole.record(name, whole.fields[name])
        rules[kind] = rule.text("role", needed=True), rule.text("prompt", needed=True)
    return rules


def _records(path: Path) -> list[Record]:
    records = read_records(path, lines=True)
    if not records:
        raise DataError("holds no records", path=path)
    return records


def _question(
    record: Record, contexts: Mapping[str, str], references: Mapping[Key, str], files: Sequence[str]
) -> OpenQuestion:
    key, image = record.key("question_id"), record.text("image", needed=True)
    if _stem(image) not in contexts:
        raise record.error(f"{files[0]} does not say what '{image}' shows", "image")
    if key not in references:
        raise record.error(f"{files[1]} has no answer to {key!r}", "question_id")
    return OpenQuestion(
        id=key,
        image=image,
        question=record.text("text", needed=True),
        reference=references[key],
        kinds=(record.choice("category", KINDS),),
        context=contexts[_stem(image)],
    )


def _name(record: Record) -> str:
    return _stem(record.text("image", needed=True))


def _stem(image: str) -> str:
    """A picture's name: COCO's files are called with and without the name of their split."""
    return Path(image).stem.removeprefix("COCO_val2014_")


def _context(record: Record) -> str:
    captions = record.texts("caption") or record.texts("captions")
    if not captions:
        raise record.error("is missing", "caption")
    return "\n".join([*captions, *_boxes(record)])


def _boxes(record: Record) -> Iterator[str]:
    for one in record.records("instances"):
        yield f"{one.text('category', needed=True)}: {json.dumps(one.value('bbox'))}"
