"""Which answers are the same, however they are written: an error must not be one of spelling."""

from __future__ import annotations

from collections.abc import Iterable

from vlmend.evaluation.text import normalised
from vlmend.evaluation.vqa import vqa_normalised

__all__ = ["alike", "forms"]

_APOSTROPHES = str.maketrans("", "", "'\u2019")


def forms(text: str) -> frozenset[str]:
    """An answer as the evaluator compares it, as the VQA challenge does ("six" is "6"), and without apostrophes."""
    return frozenset({normalised(text), vqa_normalised(text), normalised(vqa_normalised(text).translate(_APOSTROPHES))})


def alike(said: str, accepted: Iterable[str]) -> bool:
    """Whether an answer is, in some form, one of those that are accepted."""
    return not forms(said).isdisjoint(form for one in accepted for form in forms(one))
