"""Operations that put text before the question, or in front of all: always the same, or what is likest to the question
of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmend.edits.ops import Op, kept, outlived
from vlmend.errors import EditError
from vlmend.models.prompts import MARKER

__all__ = ["PromptOp", "RecallOp"]


@dataclass(frozen=True, eq=False)
class PromptOp(Op):
    """Puts a text before the question; pictures that stand before it stay there.

    Where several such operations act on a row their texts follow each other, and behind them comes the last lead.

    Attributes:
        text: what is put.
        lead: what stands between it and the question.
        opening: what stands in front of all, the pictures too; what rows with the same opening begin with is run once.

    Raises:
        EditError: the text is empty, or says that a picture stands in it.
    """

    kind: ClassVar[str] = "prompt"

    text: str
    lead: str = ""
    opening: str = ""

    def __post_init__(self) -> None:
        _check_texts([self.text], self.lead, self.opening)

    def check(self, layers: int, width: int) -> None:
        """Any model can be asked more."""

    @property
    def words(self) -> tuple[str, ...]:
        return (self.opening, self.text) if self.opening else (self.text,)

    def told(self, key: Callable[[], Tensor]) -> tuple[str, str]:
        """The opening and the text."""
        return self.opening, self.text

    def fields(self) -> dict[str, Any]:
        return {"text": self.text, "lead": self.lead} | ({"opening": self.opening} if self.opening else {})

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        return cls(str(fields["text"]), str(fields["lead"]), str(fields.get("opening", "")))


@dataclass(frozen=True, eq=False)
class RecallOp(Op):
    """Puts those of its texts before the question whose keys are likest to the row's (`vlmend.models.telling`).

    Likeness is the sum of two cosines, of the questions' and of the pictures' keys: 2 for the same question about the
    same picture, at most 1 where either has no picture. The likest stands last, next to the question; of equally
    like ones the first counts as likest.

    Attributes:
        texts: what may be put.
        keys_E2D: the key of each.
        top: how many are put, at most.
        least: only those at least so like; any if ``None``.
        lead: as in `PromptOp`.
        openings: what stands in front of all where a text is put, for each, as in `PromptOp`; empty for none.

    Raises:
        EditError: texts, openings and keys do not fit, ``top`` is less than 1, or as in `PromptOp`.
    """

    kind: ClassVar[str] = "recall"

    texts: tuple[str, ...]
    keys_E2D: Tensor
    top: int = 3
    least: float | None = None
    lead: str = ""
    openings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_texts(self.texts, self.lead, *self.openings)
        if len(self.openings) not in (0, len(self.texts)):
            raise EditError(
                f"{len(self.openings)} openings do not fit {len(self.texts)} texts: one for each is expected"
            )
        if self.keys_E2D.dim() != 3 or self.keys_E2D.shape[:2] != (len(self.texts), 2):
            raise EditError(
                f"keys of shape {tuple(self.keys_E2D.shape)} do not fit {len(self.texts)} texts: [E, 2, D] is expected"
            )
        if self.top < 1:
            raise EditError(f"top is {self.top}; at least one text must be put before a question")
        object.__setattr__(self, "keys_E2D", kept(self.keys_E2D))

    def check(self, layers: int, width: int) -> None:
        """Refuse a model of another width.

        Raises:
            EditError: says which.
        """
        if self.keys_E2D.shape[2] != width:
            raise EditError(f"the edit's keys have width {self.keys_E2D.shape[2]}, the model's states {width}")

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.openings, *self.texts)

    def told(self, key: Callable[[], Tensor]) -> tuple[str, str]:
        """The texts that are likest to a row, given what gives its key [2, D]."""
        likeness_E = (self.keys_E2D * key().to(self.keys_E2D)).sum((1, 2))
        likest = likeness_E.argsort(descending=True, stable=True)[: self.top].tolist()
        chosen = [at for at in likest if self.least is None or float(likeness_E[at]) >= self.least]
        texts, openings = (
            "".join(some[at] for at in reversed(chosen)) if some else "" for some in (self.texts, self.openings)
        )
        return openings, texts

    def joined(self, other: Op) -> Op | None:
        """The texts of both, if they are found and put in the same way; of two with the same key the later one."""
        if not isinstance(other, RecallOp) or (self._way, self.keys_E2D.shape[2]) != (
            other._way,
            other.keys_E2D.shape[2],
        ):
            return None
        if bool(self.openings) != bool(other.openings):
            return None
        own = outlived([self.keys_E2D], [other.keys_E2D])
        texts, openings = (tuple(some[at] for at in own if some) for some in (self.texts, self.openings))
        keys_E2D = torch.cat([self.keys_E2D[own], other.keys_E2D])
        return RecallOp(texts + other.texts, keys_E2D, *self._way, openings + other.openings)

    @property
    def _way(self) -> tuple[int, float | None, str]:
        return self.top, self.least, self.lead

    def fields(self) -> dict[str, Any]:
        plain = {"texts": list(self.texts), "top": self.top, "least": self.least, "lead": self.lead}
        return plain | ({"openings": list(self.openings)} if self.openings else {})

    def tensors(self) -> dict[str, Tensor]:
        return {"keys": self.keys_E2D}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        texts, openings = tuple(fields["texts"]), tuple(fields.get("openings", ()))
        return cls(texts, tensors["keys"], int(fields["top"]), fields["least"], str(fields["lead"]), openings)


def _check_texts(texts: Sequence[str], *others: str) -> None:
    if not texts or not all(text.strip() for text in texts):
        raise EditError("a text to be put before the question is empty")
    if marked := [text for text in (*texts, *others) if MARKER in text]:
        raise EditError(f"a text to be put before the question has {MARKER} in it, and no picture: {marked[0]!r}")
