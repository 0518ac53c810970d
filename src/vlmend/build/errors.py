"""What a model gets wrong for good: its greedy answer, and answers drawn again, are all wrong.

MMEdit (arXiv 2310.08475, section 3.1) takes what BLIP-2 answers wrongly once. An answer that is right every other time
is no error to be edited away, so here it must be wrong in every one of several draws.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from vlmend.build.answers import alike
from vlmend.data.formats.coco import read_synonyms
from vlmend.data.records import EditCase, Example
from vlmend.evaluation.hallucination.naming import WholeNames
from vlmend.evaluation.text import normalised
from vlmend.models.sampling import Sampling
from vlmend.models.vlm import VLM
from vlmend.runs import Log

__all__ = ["CAPTION", "KINDS", "UNKNOWN", "Answered", "Asked", "Asking", "Captioned", "Right", "ask_all", "overlap"]

_AT_ONCE = 32
_WORD = re.compile(r"\w+")


class Right(Protocol):
    """What counts as right of one kind of data, and what as the same error again."""

    def __call__(self, said: str, example: Example) -> bool:
        """Whether an answer is right."""
        ...

    def again(self, said: str, rejected: str, example: Example) -> str | None:
        """Why a wrong answer about a second picture is not the error made about the first; ``None`` if it is."""
        ...

    def shown(self, example: Example) -> str:
        """What the picture of an example shows, by its question and right answer."""
        ...


_ELSE = "the model says something else of it"
UNKNOWN = "the model does not recognise it"


def overlap(said: str, reference: str) -> float:
    """F1 of the words of two texts, each counted as often as it stands there; 1 for the same words."""
    mine, other = (_WORD.findall(normalised(text)) for text in (said, reference))
    if not mine or not other:
        return float(mine == other)
    shared = sum(min(mine.count(word), other.count(word)) for word in {*mine})
    return 2 * shared / (len(mine) + len(other))


CAPTION = 0.6
"""Words that a caption without objects shares with the likest of its references, as F1, for it to be right."""


@dataclass(frozen=True)
class Captioned:
    """What makes a caption right: it names objects, and each is named by a reference, too (CHAIR's hallucination, arXiv
    1809.02156, with the captions of a picture alone). One that names none must share `CAPTION` of its words with a
    reference. What a caption leaves out makes it no error.

    Attributes:
        synonyms: the words of each object, as CHAIR lists them; CHAIR's own list if ``None``; none where it is empty,
            so that all words alike are compared.

    Raises:
        VlmendError: a word stands for two objects.
    """

    synonyms: str | None = None

    def __post_init__(self) -> None:
        """Complain of the words before the long work."""
        _ = self._names

    def __call__(self, said: str, example: Example) -> bool:
        """Whether it is right."""
        if objects := self._objects(said):
            return objects <= set[str]().union(*map(self._objects, example.accepted))
        return max((overlap(said, one) for one in example.accepted), default=0.0) >= CAPTION

    def again(self, said: str, rejected: str, example: Example) -> str | None:
        """Objects rightly named of the first picture are named of the second, and so is one that neither has; of
        captions without objects, most of their words are the same."""
        named, before = self._objects(said), self._objects(rejected)
        there = set[str]().union(*map(self._objects, example.accepted))
        if not before:
            return None if overlap(said, rejected) >= CAPTION else _ELSE
        if not before & there <= named:
            return UNKNOWN
        return None if (before - there) & named else _ELSE

    def shown(self, example: Example) -> str:
        """The caption."""
        return example.answer or ""

    def _objects(self, text: str) -> set[str]:
        return {mention.name for mention in self._names.find(text)}

    @cached_property
    def _names(self) -> WholeNames:
        return WholeNames(read_synonyms() if self.synonyms is None else self.synonyms)


@dataclass(frozen=True)
class Answered:
    """What makes a short answer right: it is one of those that are accepted."""

    def __call__(self, said: str, example: Example) -> bool:
        """Whether it is right."""
        return alike(said, example.accepted)

    def again(self, said: str, rejected: str, example: Example) -> str | None:
        """The very same is said."""
        return None if alike(said, (rejected,)) else _ELSE

    def shown(self, example: Example) -> str:
        """Question and answer."""
        return f"{example.question} {example.answer}"


KINDS: Mapping[str, Callable[[str | None], Right]] = {
    "vqa": lambda synonyms: Answered(),
    "caption": Captioned,
}
"""Kind of data -> what counts as right, given words of objects: an answer by `alike`; a caption by the objects it
names."""


@dataclass(frozen=True)
class Asking:
    """How errors are looked for.

    Attributes:
        kind: of `KINDS`.
        draws: how often an answer is drawn beside the greedy one.
        temperature, seed: of the draws.
        max_new_tokens: longest answer.
        synonyms: words of the objects that captions name, as CHAIR lists them; CHAIR's own if ``None``.
    """

    kind: str = "vqa"
    draws: int = 2
    temperature: float = 0.7
    seed: int = 0
    max_new_tokens: int = 32
    synonyms: str | None = None

    @cached_property
    def right(self) -> Right:
        """What counts as right."""
        return KINDS[self.kind](self.synonyms)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was said of one record.

    Attributes:
        id: whose.
        said: the greedy answer, then the drawn ones.
        wrong: which of them are.
    """

    id: str
    said: tuple[str, ...]
    wrong: tuple[bool, ...]

    @property
    def why_not(self) -> str | None:
        """Why it is no error for good; ``None`` if it is."""
        if not self.wrong[0]:
            return "answered rightly"
        return None if all(self.wrong) else "not wrong every time"

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Asked:
        """From a run folder's record."""
        return cls(record["id"], tuple(record["said"]), tuple(record["wrong"]))


def ask_all(vlm: VLM, cases: Sequence[EditCase], asking: Asking, log: Log, progress: Callable[[], None]) -> list[Asked]:
    """Ask every record; those that the log has are not asked again.

    Records are asked in batches that do not depend on where an earlier run was cut short, so that draws are the same.
    """
    right = asking.right
    known = {record["id"]: Asked.restored(record) for record in log.records}
    for start in range(0, len(cases), _AT_ONCE):
        batch = cases[start : start + _AT_ONCE]
        if all(case.id in known for case in batch):
            continue
        prepared = vlm.prepare([replace(case.request, answer=None) for case in batch])
        samplings = [None, *(Sampling(asking.temperature, asking.seed + n) for n in range(asking.draws))]
        replies = [
            [one.text for one in vlm.replies(prepared, max_new_tokens=asking.max_new_tokens, sampling=sampling)]
            for sampling in samplings
        ]
        for case, *said in zip(batch, *replies, strict=True):
            if case.id not in known:
                found = Asked(case.id, tuple(said), tuple(not right(one, case.request) for one in said))
                log.append({"id": found.id, "said": list(found.said), "wrong": list(found.wrong)})
                known[case.id] = found
                progress()
    return [known[case.id] for case in cases]
