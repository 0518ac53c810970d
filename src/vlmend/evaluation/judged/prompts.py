"""What a judge is told: a text with places for question, reference, answer and context."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmend.data.formats.files import read_text
from vlmend.data.questions import OpenQuestion
from vlmend.errors import DataError

__all__ = ["Prompt", "prompt_of"]

_PLACE = re.compile(r"\{(question|reference|answer|context)\}")
_NEEDED = ("reference", "answer")


@dataclass(frozen=True)
class Prompt:
    """What a judge is told.

    Attributes:
        name: what it goes by in results, before a hash of its text.
        texts: kind of question -> text; under "" the one for any other kind. ``{question}``, ``{reference}``,
            ``{answer}`` and ``{context}`` stand for those.
        system: told before it, if anything is.
    """

    name: str
    texts: Mapping[str, str]
    system: str = ""

    @property
    def id(self) -> str:
        """Its name and a hash of all its text."""
        content = json.dumps([self.system, dict(self.texts)], sort_keys=True)
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def messages(self, question: OpenQuestion, answer: str) -> list[dict[str, str]]:
        """The messages about one answer; what looks like a place within a question or an answer is left as it is."""
        kind = question.kinds[0] if question.kinds and question.kinds[0] in self.texts else ""
        values = {
            "question": question.question,
            "reference": question.reference,
            "answer": answer,
            "context": question.context,
        }
        text = _PLACE.sub(lambda found: values[found[1]], self.texts[kind])
        before = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, {"role": "user", "content": text}]


def prompt_of(path: Path, *, order: Sequence[str] = (), ending: str = "") -> Prompt:
    """A prompt out of one's own copy of a published one.

    Args:
        path: a text file.
        order: what successive ``{}`` in it stand for, as published code fills them in.
        ending: put behind a text that has no places at all.

    Raises:
        DataError: it cannot be read, or has no place for the reference or the answer.
    """
    text = read_text(path).strip()
    if order and text.count("{}") == len(order):
        for name in order:
            text = text.replace("{}", f"{{{name}}}", 1)
    if not _PLACE.search(text):
        text += ending
    places = set(_PLACE.findall(text))
    for name in _NEEDED:
        if name not in places:
            raise DataError(f"the judge's prompt has no {{{name}}} in it", path=path)
    return Prompt(path.name, {"": text})
