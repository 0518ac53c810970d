"""Which answer belongs to which question; one that is missing is an error, never a wrong answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from vlmend.data.questions import Answer, Key
from vlmend.errors import VlmendError

__all__ = ["answered", "known"]


def answered(ids: Sequence[Key], answers: Iterable[Answer]) -> dict[Key, str]:
    """Id -> what was answered.

    Raises:
        VlmendError: a question has no answer or several, two questions have one id, or an answer has no question.
    """
    found: dict[Key, str] = {}
    for answer in answers:
        if answer.id in found:
            raise VlmendError(f"question {answer.id!r} is answered twice")
        found[answer.id] = answer.text
    wanted = set(ids)
    if len(wanted) < len(ids):
        twice = next(key for key in ids if ids.count(key) > 1)
        raise VlmendError(f"two questions have the id {twice!r}")
    _refuse([key for key in ids if key not in found], "question {} has no answer")
    _refuse([key for key in found if key not in wanted], "answer {} belongs to no question")
    return found


def known(pictures: Iterable[Key], objects: Collection[Key]) -> None:
    """That it is known what each picture shows.

    Raises:
        VlmendError: it is not known of a picture.
    """
    _refuse([key for key in dict.fromkeys(pictures) if key not in objects], "it is not known what picture {} shows")


def _refuse(keys: Sequence[Key], problem: str) -> None:
    if keys:
        more = f" (and {len(keys) - 1} more like it)" if len(keys) > 1 else ""
        raise VlmendError(problem.format(repr(keys[0])) + more)
