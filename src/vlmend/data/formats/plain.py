"""The user's own cases: JSON lines, CSV or a JSON list of ``image, question, answer`` and whatever else is known.

| field | meaning |
|---|---|
| ``image`` | the picture's file; ``null`` for a question without picture; a list for several pictures |
| ``question``, ``answer`` | what is asked, and what should be answered |
| ``id`` | name of the case; the file's name and the record's number by default |
| ``aliases`` | other answers that count as right |
| ``rejected`` | what the model wrongly says |
| ``counterfactual`` | true where the answer is made up, and the model was right; false by default |
| ``source`` | where the case comes from; the file's name by default |
| ``rephrase``, ``image_rephrase`` | the question in other words, another picture of the same; several if wanted |
| ``loc``, ``loc_ans`` | a question without picture that must keep its answer |
| ``m_loc``, ``m_loc_q``, ``m_loc_a`` | another picture and question that must keep their answer |
| ``port``, ``port_ans`` | a question about the picture whose answer follows from the right one |
| ``probes`` | any other probes, as a list of ``kind, question, image, answer, aliases, hops, premises`` |
| ``notes`` | anything else, as an object |

Only the first two and the answer are needed. In a CSV file several values stand in one cell as ``a | b``, and
``probes`` and ``notes`` as JSON. What ``write`` writes is the flat fields where they say it all, else ``probes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmend.data.formats import flat
from vlmend.data.formats.files import Record
from vlmend.data.formats.notes import Notes, notes_of, values_of
from vlmend.data.formats.reading import Refuse, picture_name, picture_names, read_cases, refusal
from vlmend.data.formats.saving import is_table, write_records
from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    PORTABILITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
    EditCase,
    Example,
    Probe,
)
from vlmend.errors import DataError

__all__ = ["FIELDS", "NAME", "matches", "read", "write"]

NAME: str = "plain"

_REQUIRED = ("image", "question", "answer")
_ABOUT = ("id", "aliases", "rejected", "counterfactual", "source")
_PORT = ("port", "port_ans")
FIELDS: tuple[str, ...] = (*_REQUIRED, *_ABOUT, *flat.FIELDS, *_PORT, "probes", "notes")
_PROBE_FIELDS = ("kind", "question", "image", "answer", "aliases", "hops", "premises", "notes")
_PREMISE_FIELDS = ("question", "image", "answer", "aliases")
_LISTS = ("image", "aliases", *flat.LISTS)

# A field that says nothing without another one.
_NEEDS = (("loc_ans", "loc"), ("m_loc", "m_loc_q"), ("m_loc_q", "m_loc"), ("port", "port_ans"), ("port_ans", "port"))

_EXPECTED = ("_generality", "_locality")  # what the name of a kind says is expected
_FLAT_ORDER = (TEXT_GENERALITY, IMAGE_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY, PORTABILITY)


def matches(records: Sequence[Record]) -> bool:
    """Whether a file with these records is of this format: the first lacks at most one of the required fields."""
    return sum(field in records[0].fields for field in _REQUIRED) >= len(_REQUIRED) - 1


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> list[EditCase]:
    """Read one file; arguments and errors as in ``reading.read_cases``."""
    return read_cases(path, images, _case, skip_missing=skip_missing, check_images=check_images)


def write(cases: Sequence[EditCase], path: Path | str) -> None:
    """Write cases as ``read`` reads them, in the form that the file's name says: ``.jsonl``, ``.csv``, ``.json``.

    Image paths become relative to the file's folder. A table does not tell a case without source from one whose
    source is the file.

    Raises:
        DataError: a case has a picture in memory, no question, no answer or another one's id, or has no picture and
            the file is a table.
    """
    path = Path(path)
    made: dict[str, dict[str, Any]] = {}
    for index, case in enumerate(cases):
        refuse = refusal(case, index, path, NAME)
        if case.id in made:
            raise refuse("another case has the same id")
        made[case.id] = _fields(case, path, refuse)
        if is_table(path) and made[case.id]["image"] is None:
            raise refuse("a table has no place for a question without picture")
    write_records(path, list(made.values()), FIELDS, _LISTS)


# Records into cases


def _case(record: Record, root: Path) -> EditCase:
    _only(record, FIELDS)
    for field, needed in _NEEDS:
        if record.fields.get(field) and not record.fields.get(needed):
            raise record.error(f"is empty, but '{field}' is not", needed)
    request = _example(record, root, needs_answer=True)
    probes = list(flat.read_probes(record, request, root))
    if record.text("port"):
        probes.append(Probe(PORTABILITY, Example(record.text("port"), request.image, record.text("port_ans"))))
    probes += [_probe(probe, root) for probe in record.records("probes")]
    return EditCase(
        id=_id(record),
        request=request,
        rejected=record.text("rejected") or None,
        probes=tuple(probes),
        source=_source(record),
        notes=_notes(record),
        counterfactual=_flag(record, "counterfactual"),
    )


def _flag(record: Record, field: str) -> bool:
    """True or false, in a table as words; false where nothing is said."""
    value = record.fields.get(field)
    words: dict[Any, bool] = {None: False, "": False, "false": False, "true": True}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str | None) or value not in words:
        raise record.error(f"true or false was expected, not {value!r}", field)
    return words[value]


def _probe(record: Record, root: Path) -> Probe:
    _only(record, _PROBE_FIELDS)
    hops = record.fields.get("hops")
    if hops is not None and (not isinstance(hops, int) or isinstance(hops, bool)):
        raise record.error(f"a whole number was expected, not {hops!r}", "hops")
    premises: list[Example] = []
    for premise in record.records("premises"):
        _only(premise, _PREMISE_FIELDS)
        premises.append(_example(premise, root))
    kind = _filled(record, "kind")
    if kind != PORTABILITY and not kind.endswith(_EXPECTED):
        problem = f"'{kind}' is no kind of probe: 'portability', or a name that ends in _generality or _locality"
        raise record.error(problem, "kind")
    return Probe(kind, _example(record, root), hops, tuple(premises), _notes(record))


def _example(record: Record, root: Path, *, needs_answer: bool = False) -> Example:
    """The example in a record; a request must say of its picture at least that there is none."""
    if needs_answer and "image" not in record.fields:
        raise record.error("is missing", "image")
    files = [] if record.fields.get("image") is None else [root / name for name in record.texts("image")]
    if not files and record.fields.get("image") is not None:
        raise record.error("is empty", "image")
    question = _filled(record, "question")
    answer = record.fields.get("answer")
    if needs_answer:
        answer = _filled(record, "answer")
    elif answer is not None:
        answer = record.text("answer")
    image: Any = None if not files else files[0] if len(files) == 1 else tuple(files)
    return Example(question, image, answer, record.texts("aliases"))


def _filled(record: Record, field: str) -> str:
    value = record.text(field, needed=True)
    if not value.strip():
        raise record.error("is empty", field)
    return value


def _only(record: Record, known: Sequence[str]) -> None:
    for field in record.fields:
        if field not in known:
            raise record.error(f"is not a field of this format; there are: {', '.join(known)}", field)


def _id(record: Record) -> str:
    given = record.fields.get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    return record.text("id") or f"{record.path.stem}-{record.index}"


def _source(record: Record) -> str | None:
    if "source" in record.fields and record.fields["source"] is None:
        return None
    return record.text("source") or record.path.name


def _notes(record: Record) -> Notes:
    given = record.value("notes")
    return notes_of(record.record("notes", given).fields) if given else ()


# Cases into records


def _fields(case: EditCase, path: Path, refuse: Refuse) -> dict[str, Any]:
    if not (case.request.answer or "").strip():
        raise refuse("it has no answer")
    if not case.id:
        raise refuse("its id is empty")
    fields = {**_example_fields(case.request, path, refuse), "id": case.id}
    fields |= {"rejected": case.rejected} if case.rejected else {}
    if case.counterfactual:
        fields["counterfactual"] = "true" if is_table(path) else True
    fields |= {} if case.source == path.name else {"source": case.source}
    fields |= {"notes": values_of(case.notes)} if case.notes else {}
    try:
        fields |= _flat(case, path, refuse)
    except DataError:  # what the list cannot hold either is refused there
        fields["probes"] = [_listed(probe, path, refuse) for probe in case.probes]
    return {field: fields[field] for field in FIELDS if field in fields}


def _flat(case: EditCase, path: Path, refuse: Refuse) -> dict[str, str]:
    """The probes as flat fields; refused where reading them would not give the same probes in the same order."""
    kinds = [probe.kind for probe in case.probes]
    if kinds != [kind for kind in _FLAT_ORDER if kind in kinds]:
        raise refuse("flat fields hold one probe of a kind, in a fixed order")
    if any(probe.example.answer == "" or not probe.example.question.strip() for probe in case.probes):
        raise refuse("flat fields hold no empty text")
    ported = case.probes_of(PORTABILITY)
    others = replace(case, probes=tuple(probe for probe in case.probes if probe not in ported))
    fields = flat.write_probes(others, lambda example: picture_name(example, path, refuse), refuse)
    for probe in ported:
        asked = Example(probe.example.question, case.request.image, probe.example.answer)
        if not asked.answer or probe != Probe(PORTABILITY, asked):
            raise refuse("a flat portability probe is a question about the request's picture with one answer")
        fields |= {"port": asked.question, "port_ans": asked.answer}
    return {name: value for name, value in fields.items() if value}


def _listed(probe: Probe, path: Path, refuse: Refuse) -> dict[str, Any]:
    if probe.kind != PORTABILITY and not probe.kind.endswith(_EXPECTED):
        raise refuse(f"'{probe.kind}' is no kind of probe")
    fields: dict[str, Any] = {"kind": probe.kind, **_example_fields(probe.example, path, refuse)}
    fields |= {} if probe.hops is None else {"hops": probe.hops}
    if probe.premises:
        fields["premises"] = [_example_fields(premise, path, refuse) for premise in probe.premises]
    return fields | ({"notes": values_of(probe.notes)} if probe.notes else {})


def _example_fields(example: Example, path: Path, refuse: Refuse) -> dict[str, Any]:
    if not example.question.strip():
        raise refuse("a question is empty")
    if not all(example.aliases):
        raise refuse("an alias is empty")
    names = picture_names(example, path, refuse)
    fields: dict[str, Any] = {"image": None if not names else names[0] if len(names) == 1 else names}
    fields["question"] = example.question
    fields |= {} if example.answer is None else {"answer": example.answer}
    return fields | ({"aliases": list(example.aliases)} if example.aliases else {})
