"""Both parts of AMBER in one: descriptions, yes/no questions, and the paper's one number of the two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vlmend.data.formats.amber import Associations, Questions
from vlmend.data.questions import Answer
from vlmend.errors import UnknownNameError
from vlmend.evaluation.hallucination.amber import AmberResult, amber_describing, amber_score, amber_yes_no
from vlmend.evaluation.hallucination.yes_no import YesNoResult
from vlmend.evaluation.proof import without_nan
from vlmend.evaluation.stats import Estimate

__all__ = ["PROTOCOLS", "AmberWhole", "amber_whole"]

PROTOCOLS: Mapping[str, tuple[str, str]] = {
    "amber": ("amber", "amber-first-word"),
    "amber-code": ("amber-code", "amber-code"),
}
"""Name -> the protocols of descriptions and of yes/no questions."""


@dataclass(frozen=True)
class AmberWhole:
    """AMBER of the parts that were asked.

    Attributes:
        protocol: of `PROTOCOLS`.
        describing, yes_no: the two parts; ``None`` for one that was not asked.
        score: the paper's one number, in per cent, where both were and it can be had.
    """

    protocol: str
    describing: AmberResult | None
    yes_no: YesNoResult | None
    score: float | None

    @property
    def rates(self) -> Mapping[str, Estimate]:
        """Those of both parts, by "describing …" and "yes/no …"."""
        parts = {"describing": self.describing, "yes/no": self.yes_no}
        return {f"{part} {name}": one for part, found in parts.items() if found for name, one in found.rates.items()}

    @property
    def units(self) -> Mapping[str, str]:
        """What is no share."""
        return {name: "words" for name in self.rates if name.endswith(" words")}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        parts = {"describing": self.describing, "yes_no": self.yes_no}
        whole = {name: found and found.to_json() for name, found in parts.items()}
        records = {name: found.pop("records") for name, found in whole.items() if found}
        return without_nan({"protocol": self.protocol, "score": self.score, **whole, "records": records})


def amber_whole(
    questions: Questions, answers: Iterable[Answer], associations: Associations, *, protocol: str = "amber"
) -> AmberWhole:
    """AMBER of answers to both parts, told apart by their ids.

    Raises:
        UnknownNameError: there is no such protocol.
        VlmendError: questions and answers do not belong together one by one, or an annotated object has no
            associations.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError("AMBER protocol", protocol, PROTOCOLS)
    of_texts, of_yes_no = PROTOCOLS[protocol]
    described = {one.id for one in questions.descriptions}
    given = list(answers)
    texts = [one for one in given if one.id in described]
    rest = [one for one in given if one.id not in described]
    describing = amber_describing(questions.descriptions, texts, associations, protocol=of_texts) if described else None
    yes_no = amber_yes_no(questions.yes_no, rest, protocol=of_yes_no) if questions.yes_no or rest else None
    score = amber_score(describing, yes_no) if describing and yes_no else math.nan
    return AmberWhole(protocol, describing, yes_no, None if math.isnan(score) else score)
