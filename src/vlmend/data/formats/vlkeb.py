"""VLKEB's files (arXiv 2403.07350): MMEdit's fields on pictures of entities, and portability questions.

``port_new`` is a list of what should follow from the edit, in one of two forms:

| field | meaning |
|---|---|
| ``port_q``, ``port_a`` | the question about the edited picture, and its answer |
| ``port_edit_q``, ``port_edit_a`` | the one fact that it takes besides, without picture (``eval_edit_onehop.json``) |
| ``port_type`` | "1-hop" to "4-hop" (``eval_multihop.json``) |
| ``Q&A`` | ``Question`` and ``Answer`` |

They become probes of kind ``portability``. Any other field is kept in the notes of the case or of the probe, so that
a file that was read and written has what it had.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmend.data.formats import flat, mmedit
from vlmend.data.formats.files import Record
from vlmend.data.formats.notes import notes_of, values_of
from vlmend.data.formats.reading import Refuse, read_cases, refusal
from vlmend.data.formats.saving import write_records
from vlmend.data.records import PORTABILITY, EditCase, Example, Probe

__all__ = ["NAME", "matches", "read", "write"]

NAME: str = "VLKEB"

_PORT = "port_new"
_ONE_HOP = ("port_edit_q", "port_edit_a", "port_q", "port_a")
_MANY_HOPS = ("port_type", "Q&A")
_ENTITY = re.compile(r"(^|/)m\.[0-9a-z_]+/[^/]+$")  # pictures lie in folders named by Freebase ids


def matches(records: Sequence[Record]) -> bool:
    """Whether a file with these records is of this format: MMEdit's fields, and portability or pictures of entities."""
    return mmedit.matches(records) and any(
        _PORT in record.fields or _ENTITY.search(str(record.fields.get("image"))) for record in records
    )


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> list[EditCase]:
    """Read one file; arguments and errors as in ``reading.read_cases``."""
    return read_cases(path, images, _case, skip_missing=skip_missing, check_images=check_images)


def write(cases: Sequence[EditCase], path: Path | str) -> None:
    """Write cases as ``read`` reads them; image paths become relative to the file's folder.

    Raises:
        DataError: a case holds what the format has no place for.
    """
    path = Path(path)
    records = [_fields(case, path, refusal(case, index, path, NAME)) for index, case in enumerate(cases)]
    write_records(path, records, (*mmedit.FIELDS, _PORT), flat.LISTS)


def _case(record: Record, root: Path) -> EditCase:
    case = mmedit.to_case(record, root)
    ported = tuple(_probe(port, case.request) for port in record.records(_PORT))
    return replace(case, probes=case.probes + ported, notes=notes_of(record.fields, (*mmedit.FIELDS, _PORT)))


def _probe(port: Record, request: Example) -> Probe:
    if "Q&A" in port.fields:
        kind = re.fullmatch(r"(\d+)-hop", port.text("port_type", needed=True))
        if kind is None:
            raise port.error(f"'1-hop' or the like was expected, not {port.text('port_type')!r}", "port_type")
        pair = port.record("Q&A", port.fields["Q&A"])
        asked = Example(pair.text("Question", needed=True), request.image, pair.text("Answer", needed=True))
        notes = notes_of(port.fields, _MANY_HOPS) + notes_of(pair.fields, ("Question", "Answer"), "Q&A.")
        return Probe(PORTABILITY, asked, int(kind[1]), notes=notes)
    question, answer = port.text("port_q", needed=True), port.text("port_a", needed=True)
    fact = Example(port.text("port_edit_q", needed=True), None, port.text("port_edit_a", needed=True))
    asked = Example(question, request.image, answer)
    return Probe(PORTABILITY, asked, 1, (fact,), notes_of(port.fields, _ONE_HOP))


def _fields(case: EditCase, path: Path, refuse: Refuse) -> dict[str, Any]:
    ported = [probe for probe in case.probes if probe.kind == PORTABILITY]
    others = tuple(probe for probe in case.probes if probe.kind != PORTABILITY)
    fields: dict[str, Any] = {**mmedit.fields_of(replace(case, probes=others, notes=()), path, refuse)}
    if ported:
        fields[_PORT] = [_port(probe, case.request, refuse) for probe in ported]
    return fields | values_of(case.notes)


def _port(probe: Probe, request: Example, refuse: Refuse) -> dict[str, Any]:
    asked = probe.example
    if asked.image != request.image or asked.aliases or not (asked.question and asked.answer):
        raise refuse("a portability probe has the request's picture, a question and one answer")
    values = values_of(probe.notes)
    if not probe.premises:
        if probe.hops is None:
            raise refuse("a portability probe says how many hops it takes")
        inner = {name.removeprefix("Q&A."): value for name, value in values.items() if name.startswith("Q&A.")}
        outer = {name: value for name, value in values.items() if not name.startswith("Q&A.")}
        pair = {"Question": asked.question, "Answer": asked.answer, **inner}
        return {"port_type": f"{probe.hops}-hop", "Q&A": pair, **outer}
    fact = probe.premises[0]
    if len(probe.premises) > 1 or probe.hops != 1 or fact.image is not None or fact.aliases or not fact.answer:
        raise refuse("a portability probe rests on one fact without picture, with one answer")
    texts = (fact.question, fact.answer, asked.question, asked.answer)
    return {**dict(zip(_ONE_HOP, texts, strict=True)), **values}
