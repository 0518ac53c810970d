"""What the hallucination benchmarks ask, and what was answered.

Records of the published files, without pictures: a picture is named as the file names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vlmend.data.formats.files import Key
from vlmend.data.formats.notes import Notes

__all__ = ["YES_NO", "Answer", "Description", "Key", "ObjectQuestion", "OpenQuestion", "YesNo", "YesNoQuestion"]

YesNo = Literal["yes", "no"]
YES_NO: Mapping[str, YesNo] = {"yes": "yes", "no": "no"}
"""What the published files call the two answers."""


@dataclass(frozen=True, slots=True)
class YesNoQuestion:
    """A question to be answered by yes or no (POPE; AMBER's discriminative part).

    ``image`` is empty where the file names none. ``kinds`` are the groups it is reported in, from general to special.
    """

    id: Key
    image: str
    question: str
    answer: YesNo
    kinds: tuple[str, ...] = ()
    notes: Notes = ()


@dataclass(frozen=True, slots=True)
class Description:
    """A picture to be described (AMBER's generative part).

    ``truth`` names the objects that it shows, ``hallu`` some that it does not and that a model may be tempted to name.
    """

    id: Key
    image: str
    question: str
    truth: tuple[str, ...]
    hallu: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ObjectQuestion:
    """A picture to be described (Object HalBench): COCO's id of it, what is asked, and the file itself."""

    image_id: Key
    question: str
    picture: bytes
    notes: Notes = ()


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question whose answers are judged by how they compare with a reference (MM-Vet, LLaVA-Bench, MMHal-Bench).

    ``reference`` is what is held to be right, or a text to compare with; ``context`` says what the picture shows, to
    those who do not see it. ``kinds`` are the groups it is reported in.
    """

    id: Key
    image: str
    question: str
    reference: str
    kinds: tuple[str, ...] = ()
    context: str = ""
    notes: Notes = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to one question, or of one picture: its id, and the text."""

    id: Key
    text: str
    question: str = ""
