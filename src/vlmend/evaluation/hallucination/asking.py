"""A model's answers to a suite of questions, in batches, into a run that goes on where it was cut short."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vlmend.data.questions import Answer, Key, YesNoQuestion
from vlmend.data.records import Example
from vlmend.errors import DataError, MissingImageError, PromptError
from vlmend.evaluation.decoding import Decoding, Greedy
from vlmend.evaluation.hallucination.pope import DEFAULT, pope, protocol_of
from vlmend.evaluation.stats import Estimate
from vlmend.models.pictures import open_picture
from vlmend.models.vlm import VLM

__all__ = ["Log", "Result", "Suite", "answers_to", "pictured", "pope_suite"]

Asked = TypeVar("Asked")

GREEDY = Greedy()
SHORT = 64  # tokens of an answer that is no description
BATCH = 32  # questions prepared together; those on one picture share its encoding


class Result(Protocol):
    """What every measurement of hallucination has."""

    @property
    def protocol(self) -> str:
        """Its protocol's name."""
        ...

    @property
    def rates(self) -> Mapping[str, Estimate]:
        """Name -> rate, with coverage and length among them."""
        ...

    @property
    def units(self) -> Mapping[str, str]:
        """Name -> unit of those that are no shares."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        ...


class Log(Protocol):
    """Where answers are kept as they come: a run, or a part of one (``vlmend.runs``)."""

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """Those that are kept already."""
        ...

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep one more."""
        ...


@dataclass(frozen=True)
class Suite:
    """Questions to a model, and what makes a result of its answers.

    Attributes:
        name: what it is asked for by.
        asked: (id, example) of every question; ids are unique.
        score: the result of an answer to each.
        max_new_tokens: longest answer, unless the caller says another.
    """

    name: str
    asked: Sequence[tuple[Key, Example]]
    score: Callable[[Sequence[Answer]], Result]
    max_new_tokens: int = SHORT

    @property
    def fingerprint(self) -> str:
        """Of what is asked about what, in order; pictures in files count by their names, wherever they lie."""
        digest = hashlib.blake2b(digest_size=8)
        for key, example in self.asked:
            digest.update(repr((key, example.question, example.answer)).encode())
            for picture in example.pictures:
                content = picture.name.encode() if isinstance(picture, Path) else _pixels(picture)
                digest.update(content)
        return digest.hexdigest()


def answers_to(
    vlm: VLM,
    suite: Suite,
    log: Log,
    *,
    max_new_tokens: int,
    progress: Callable[[], None],
    way: Decoding = GREEDY,
) -> list[Answer]:
    """Answers to every question of a suite; those that the log has are not asked again.

    Args:
        vlm: the model, with whatever edits are in force.
        suite: the questions.
        log: gets ``id`` and ``response`` of every answer, batch by batch.
        max_new_tokens: longest answer.
        progress: called once for every question answered now.
        way: how answers are decoded.
    """
    said: dict[Key, str] = {record["id"]: record["response"] for record in log.records}
    for batch in _batches([(key, example) for key, example in suite.asked if key not in said]):
        replies = way.replies(vlm, [example for _, example in batch], max_new_tokens=max_new_tokens)
        for (key, _), reply in zip(batch, replies, strict=True):
            log.append({"id": key, "response": reply.text})
            said[key] = reply.text
            progress()
    return [Answer(key, said[key]) for key, _ in suite.asked]


def pope_suite(
    path: Path,
    questions: Sequence[YesNoQuestion],
    images: Path,
    *,
    protocol: str = DEFAULT,
    skip_missing: bool = False,
) -> Suite:
    """The questions of a POPE file, put as they stand there.

    Args:
        path: the file, for errors.
        questions: of it.
        images: the folder with its pictures.
        protocol: of `pope`.
        skip_missing: leave out questions whose picture is not there or cannot be read, instead of raising.

    Raises:
        MissingImageError: pictures are missing; lists them.
        DataError: one cannot be read, or none is there.
        UnknownNameError: there is no such protocol.
    """
    way = protocol_of(protocol).name
    wanted = [(one.id, one, images / one.image) for one in questions]
    found = pictured(path, wanted, skip_missing=skip_missing)
    kept = [one for one, _ in found]
    asked = [(one.id, Example(one.question, picture, one.answer)) for one, picture in found]
    return Suite("pope", asked, lambda answers: pope(kept, answers, protocol=way))


def pictured(
    path: Path, questions: Sequence[tuple[Key, Asked, Path]], *, skip_missing: bool = False, limit: int | None = None
) -> list[tuple[Asked, Path]]:
    """The questions whose pictures can be had, with these. Each file is opened once, before anything is asked.

    Args:
        path: the file that they are from, for errors.
        questions: each with its id, and where its picture should be.
        skip_missing: leave out the others, instead of raising.
        limit: only the first so many; pictures of later ones are not opened.

    Raises:
        MissingImageError: pictures are missing; lists them.
        DataError: one cannot be read, or none is there.
    """
    missing = [(index, picture) for index, (*_, picture) in enumerate(questions) if not picture.is_file()]
    if missing and not skip_missing:
        raise MissingImageError(missing, path=path)
    absent = {picture for _, picture in missing}
    damaged: dict[Path, PromptError | None] = {}
    kept: list[tuple[Asked, Path]] = []
    for key, asked, picture in questions:
        if len(kept) == limit:
            break
        if picture in absent:
            continue
        if picture not in damaged:
            damaged[picture] = _damage(picture)
        if (error := damaged[picture]) is None:
            kept.append((asked, picture))
        elif not skip_missing:
            problem = f"question {key!r}: {error}; skip_missing leaves such questions out"
            raise DataError(problem, path=path) from error
    if not kept:
        folder = f"in {missing[0][1].parent}" if missing else "there"
        raise DataError(f"none of its pictures {'can be read' if damaged else f'is {folder}'}", path=path)
    return kept


def _damage(picture: Path) -> PromptError | None:
    try:
        open_picture(picture)
    except PromptError as error:
        return error
    return None


def _batches(asked: Sequence[tuple[Key, Example]]) -> Iterator[Sequence[tuple[Key, Example]]]:
    return (asked[start : start + BATCH] for start in range(0, len(asked), BATCH))


def _pixels(picture: Any) -> bytes:
    return hashlib.blake2b(picture.tobytes(), digest_size=8).digest()
