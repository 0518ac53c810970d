"""AMBER's files (arXiv 2311.07397): queries, annotations under the same ids, and which words go with which object.

| file | record |
|---|---|
| queries | ``id``, ``image``, ``query`` |
| annotations | ``id``, ``type``, ``truth``: "yes" or "no"; for descriptions lists of objects ``truth`` and ``hallu`` |
| associations (``relation.json``) | object -> words that may stand for it; one JSON object |

The published annotations call relation questions ``discriminative-relation`` and ``relation``. A type that is not known
is an error here; the published evaluator takes it for a relation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmend.data.formats.files import Key, Record, only_once, read_object, read_records
from vlmend.data.formats.saving import write_records
from vlmend.data.questions import YES_NO, Description, YesNoQuestion
from vlmend.errors import DataError
from vlmend.runs import write_json

__all__ = ["KINDS", "NAME", "Associations", "Questions", "read", "read_associations", "write", "write_associations"]

NAME: str = "AMBER"

Associations = Mapping[str, tuple[str, ...]]
"""Object -> words that may stand for it."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
"""Type of a yes/no question in files -> the groups it is reported in."""

_GENERATIVE, _DISCRIMINATIVE = "generative", "discriminative"


@dataclass(frozen=True, slots=True)
class Questions:
    """The two parts of the benchmark."""

    descriptions: tuple[Description, ...]
    yes_no: tuple[YesNoQuestion, ...]


def read(queries: Path | str, annotations: Path | str) -> Questions:
    """The questions of a file of queries, with what another file has under the same ids.

    Raises:
        DataError: a file cannot be read, a record is wrong, two have one id, or a query has no annotation.
    """
    asked, annotated = _by_id(Path(queries)), _by_id(Path(annotations))
    for key, record in asked.items():
        if key not in annotated:
            raise record.error(f"{key!r} is not annotated in {annotations}", "id")
    pairs = [(key, record, annotated[key]) for key, record in asked.items()]
    described = [_is_generative(about) for _, _, about in pairs]
    return Questions(
        tuple(_description(*pair) for pair, free in zip(pairs, described, strict=True) if free),
        tuple(_yes_no(*pair) for pair, free in zip(pairs, described, strict=True) if not free),
    )


def read_associations(path: Path | str) -> Associations:
    """Object -> words that may stand for it.

    Raises:
        DataError: the file cannot be read, or is no object of lists of words.
    """
    path = Path(path)
    record = Record(path, 0, read_object(path))
    return {name: record.texts(name) if record.fields[name] else () for name in record.fields}


def write(questions: Questions, queries: Path | str, annotations: Path | str) -> None:
    """Write both files as ``read`` reads them; a relation question is written as ``discriminative-relation``."""
    types = {kinds: name for name, kinds in KINDS.items() if name.startswith(_DISCRIMINATIVE)}
    ordered = [*questions.descriptions, *questions.yes_no]
    write_records(Path(queries), [{"id": one.id, "image": one.image, "query": one.question} for one in ordered], ())
    described = [
        {"id": one.id, "type": _GENERATIVE, "truth": list(one.truth), "hallu": list(one.hallu)}
        for one in questions.descriptions
    ]
    asked = [{"id": one.id, "type": types[one.kinds], "truth": one.answer} for one in questions.yes_no]
    write_records(Path(annotations), [*described, *asked], ())


def write_associations(associations: Associations, path: Path | str) -> None:
    """Write associations as ``read_associations`` reads them."""
    write_json(Path(path), {name: list(words) for name, words in associations.items()})


def _by_id(path: Path) -> dict[Key, Record]:
    records = read_records(path)
    if not records:
        raise DataError("holds no records", path=path)
    keys: Sequence[Key] = [record.key("id") for record in records]
    only_once(records, keys)
    return dict(zip(keys, records, strict=True))


def _is_generative(about: Record) -> bool:
    name = about.text("type", needed=True)
    if name != _GENERATIVE and name not in KINDS:
        raise about.error(f"{name!r} is no type of AMBER's", "type")
    return name == _GENERATIVE


def _description(key: Key, asked: Record, about: Record) -> Description:
    image, query = asked.text("image", needed=True), asked.text("query", needed=True)
    for field in ("truth", "hallu"):
        if not isinstance(about.fields.get(field), list):
            raise about.error("a list of objects was expected", field)
    return Description(key, image, query, about.texts("truth"), about.texts("hallu"))


def _yes_no(key: Key, asked: Record, about: Record) -> YesNoQuestion:
    image, query = asked.text("image", needed=True), asked.text("query", needed=True)
    return YesNoQuestion(key, image, query, about.choice("truth", YES_NO), KINDS[about.text("type")])
