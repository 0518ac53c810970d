"""What of a benchmark EasyEdit's loaders read: records of MMEdit's format with nothing missing.

They open the pictures of every field of every record, so that one record without a second picture ends them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlmend.data.formats import mmedit
from vlmend.data.records import PUBLISHED, EditCase, Probe
from vlmend.errors import DataError

__all__ = ["publishable"]


def publishable(cases: Sequence[EditCase], path: Path) -> tuple[list[EditCase], list[tuple[str, str]]]:
    """The cases that are whole in a file of MMEdit's format at ``path``, with one probe of each of its kinds: the first
    that fits. And what is left out: the case's id, and why a probe of these kinds does not fit, or the whole case."""
    kept: list[EditCase] = []
    out: list[tuple[str, str]] = []
    for case in cases:
        bare = replace(case, request=replace(case.request, aliases=()), probes=(), notes=(), counterfactual=False)
        fields, why = _fields(bare, path)
        for probe in case.probes if why is None else ():
            if probe.kind not in PUBLISHED or bare.probes_of(probe.kind):
                continue
            slim = Probe(probe.kind, replace(probe.example, aliases=()))
            fuller = replace(bare, probes=(*bare.probes, slim))
            more, wrong = _fields(fuller, path)
            if wrong is None:
                bare, fields = fuller, more
            else:
                out.append((case.id, f"{probe.kind}: {wrong}"))
        if why is None and (empty := [field for field, text in fields.items() if not text.strip()]):
            why = f"it lacks {', '.join(empty)}"
        if why is None:
            kept.append(bare)
        else:
            out.append((case.id, why))
    return kept, out


def _fields(case: EditCase, path: Path) -> tuple[Mapping[str, str], str | None]:
    """A case's fields, or why the format has no place for it, in its own words."""
    refused: list[str] = []

    def refuse(problem: str) -> DataError:
        refused.append(problem)
        return DataError(problem, path=path)

    try:
        return mmedit.fields_of(case, path, refuse), None
    except DataError:
        return {}, refused[0]
