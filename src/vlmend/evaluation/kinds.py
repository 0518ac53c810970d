"""The kinds of probes: what each is called, what it asks, and what its answer is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    NO_IMAGE_LOCALITY,
    OOD_GENERALITY,
    PORTABILITY,
    SAME_IMAGE_LOCALITY,
    SAME_QUESTION_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
)

__all__ = ["KINDS", "RELIABILITY", "Kind", "kind_of"]

RELIABILITY = "reliability"
_LOCALITY = "_locality"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of probe.

    Attributes:
        kind: its name in files.
        short, name: what its metric is called in tables.
        meaning: what it asks.
        keeps: whether the answer is compared with the one before the edit; else with the right one.
    """

    kind: str
    short: str
    name: str
    meaning: str
    keeps: bool = False


_ALL = (
    Kind(RELIABILITY, "Rel", "Reliability", "the corrected question itself"),
    Kind(TEXT_GENERALITY, "T-Gen", "Text generality", "the same question in other words"),
    Kind(IMAGE_GENERALITY, "M-Gen", "Image generality", "the same content in another picture"),
    Kind(OOD_GENERALITY, "O-Gen", "Out-of-distribution generality", "the same content in an unusual look"),
    Kind(PORTABILITY, "Port", "Portability", "what follows from the right answer"),
    Kind(TEXT_LOCALITY, "T-Loc", "Text locality", "an unrelated question, no picture", keeps=True),
    Kind(IMAGE_LOCALITY, "M-Loc", "Image locality", "an unrelated picture and question", keeps=True),
    Kind(SAME_IMAGE_LOCALITY, "SI-Loc", "Same-image locality", "another question on the same picture", keeps=True),
    Kind(SAME_QUESTION_LOCALITY, "SQ-Loc", "Same-question locality", "the same question, another picture", keeps=True),
    Kind(NO_IMAGE_LOCALITY, "NI-Loc", "No-image locality", "the same question without a picture", keeps=True),
)

KINDS: dict[str, Kind] = {one.kind: one for one in _ALL}
"""Name in files -> kind, in the order of tables."""


def kind_of(kind: str) -> Kind:
    """The entry of a kind; one that is not known describes itself, and keeps answers if it ends in ``_locality``."""
    if kind in KINDS:
        return KINDS[kind]
    return Kind(kind, kind, kind.replace("_", " ").capitalize(), "", keeps=kind.endswith(_LOCALITY))
