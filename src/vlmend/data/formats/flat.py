"""Probes as flat fields of a record, as MMEdit names them; other formats use the same names.

| field | meaning |
|---|---|
| ``rephrase`` | the question in other words: text generality |
| ``image_rephrase`` | another picture of the same content: image generality |
| ``loc``, ``loc_ans`` | a question without picture that must keep its answer: text locality |
| ``m_loc``, ``m_loc_q``, ``m_loc_a`` | another picture and question that must keep their answer: image locality |

The two generality probes expect the request's answer (and its aliases).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from vlmend.data.formats.files import Record
from vlmend.data.formats.reading import Refuse
from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
    EditCase,
    Example,
    Probe,
)

__all__ = ["FIELDS", "LISTS", "read_probes", "write_probes"]

FIELDS: tuple[str, ...] = ("rephrase", "image_rephrase", "loc", "loc_ans", "m_loc", "m_loc_q", "m_loc_a")
LISTS: tuple[str, ...] = ("rephrase", "image_rephrase")
"""Those that may hold several texts."""

Name = Callable[[Example], str]


def read_probes(record: Record, request: Example, root: Path) -> Iterator[Probe]:
    """The probes in the flat fields of a record."""
    text = record.text
    for question in record.texts("rephrase"):
        yield Probe(TEXT_GENERALITY, replace(request, question=question))
    for image in record.texts("image_rephrase"):
        yield Probe(IMAGE_GENERALITY, replace(request, image=root / image))
    if text("loc") or text("loc_ans"):
        yield Probe(TEXT_LOCALITY, Example(text("loc"), None, text("loc_ans") or None))
    if text("m_loc"):
        yield Probe(IMAGE_LOCALITY, Example(text("m_loc_q"), root / text("m_loc"), text("m_loc_a") or None))
    elif text("m_loc_q") or text("m_loc_a"):
        raise record.error("is empty, but its question or answer is not", "m_loc")


def write_probes(case: EditCase, name: Name, refuse: Refuse) -> dict[str, str]:
    """The flat fields of a case's probes; ``name`` gives the picture of an example as the file names it.

    Raises:
        DataError: made by ``refuse``; a probe is of another kind, the second of its kind, or says more than the
            fields do.
    """
    fields = dict.fromkeys(FIELDS, "")
    found: set[str] = set()
    for probe in case.probes:
        if probe.kind not in _WRITERS or probe.kind in found:
            raise refuse(f"it has no place for this '{probe.kind}' probe")
        if probe.hops is not None or probe.premises or probe.notes:
            raise refuse(f"it has no place for hops, premises or notes of a '{probe.kind}' probe")
        found.add(probe.kind)
        fields |= _WRITERS[probe.kind](probe.example, case.request, name, refuse)
    return fields


def _rephrase(example: Example, request: Example, name: Name, refuse: Refuse) -> dict[str, str]:
    if example != replace(request, question=example.question):
        raise refuse("a text generality probe has the request's picture and target")
    return {"rephrase": example.question}


def _image_rephrase(example: Example, request: Example, name: Name, refuse: Refuse) -> dict[str, str]:
    if example != replace(request, image=example.image):
        raise refuse("an image generality probe has the request's question and target")
    return {"image_rephrase": name(example)}


def _loc(example: Example, request: Example, name: Name, refuse: Refuse) -> dict[str, str]:
    if example.image is not None:
        raise refuse("a text locality probe has no picture")
    return {"loc": example.question, "loc_ans": _answer(example, refuse)}


def _m_loc(example: Example, request: Example, name: Name, refuse: Refuse) -> dict[str, str]:
    return {"m_loc": name(example), "m_loc_q": example.question, "m_loc_a": _answer(example, refuse)}


def _answer(example: Example, refuse: Refuse) -> str:
    if example.aliases:
        raise refuse("it has no place for aliases of a locality probe")
    return example.answer or ""


_WRITERS: Mapping[str, Callable[[Example, Example, Name, Refuse], dict[str, str]]] = {
    TEXT_GENERALITY: _rephrase,
    IMAGE_GENERALITY: _image_rephrase,
    TEXT_LOCALITY: _loc,
    IMAGE_LOCALITY: _m_loc,
}
