"""Operations that act on some inputs only, and answers that are given without asking the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from vlmend.edits.ops import Op

__all__ = ["AnswerOp", "Key", "RouteOp"]


class _Asked(Protocol):
    @property
    def question(self) -> str: ...
    @property
    def content(self) -> str: ...


@dataclass(frozen=True)
class Key:
    """What an input must have to be routed.

    Attributes:
        picture: content hash of its picture (of several, joined by "+"), empty for an input without one; any if
            ``None``.
        question: its question, word for word; any if ``None``.
    """

    picture: str | None = None
    question: str | None = None

    def fits(self, row: _Asked) -> bool:
        """Whether an input has all that the key names."""
        return self.picture in (None, row.content) and self.question in (None, row.question)


@dataclass(frozen=True, eq=False)
class RouteOp(Op):
    """Lets operations act on the inputs that a key fits, and abstains from all others."""

    kind: ClassVar[str] = "route"

    key: Key
    ops: tuple[Op, ...]

    @property
    def inner(self) -> tuple[Op, ...]:
        return self.ops

    def chosen(self, row: _Asked) -> tuple[Op, ...]:
        """The operations that act on this input."""
        return self.ops if self.key.fits(row) else ()

    def fields(self) -> dict[str, Any]:
        return {"key": asdict(self.key)}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        return cls(Key(**fields["key"]), tuple(inner))


@dataclass(frozen=True, eq=False)
class AnswerOp(Op):
    """Gives a fixed answer in the model's place: for lookups and for control editors."""

    kind: ClassVar[str] = "answer"

    answer: str

    def fields(self) -> dict[str, Any]:
        return {"answer": self.answer}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        return cls(str(fields["answer"]))
