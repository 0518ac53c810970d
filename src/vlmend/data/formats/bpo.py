"""BPO's files (arXiv 2403.08730, ``data_generation/README.md`` of its code): several answers to one question, scored.

| field | meaning |
|---|---|
| ``prompt`` | the question, with ``<image>`` where the picture stands |
| ``image`` | its file, below one folder for all |
| ``completions`` | answers: ``response``, ``score``, ``type``: ``gt`` (score 1), ``llm-hal`` or ``mllm-hal`` (0) |

Every two answers of unequal score are a pair. As published, a record with any answer of more than 350 words is dropped
whole; here that answer alone is, and named. ``origin`` is the worse answer's ``type``, as the file calls it: the
published code that was to make ``mllm-hal`` does not weaken pictures, so the name says little of where it is from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from vlmend.data.formats.files import Record
from vlmend.data.formats.notes import notes_of, values_of
from vlmend.data.formats.pairing import EMPTY, Preferences, as_pictures, pairs_of, picture_name, unwrapped
from vlmend.data.formats.saving import write_records
from vlmend.data.records import PreferencePair, SkippedPair
from vlmend.errors import DataError

__all__ = ["KNOWN", "LONGEST", "NAME", "NEEDED", "matches", "read", "write"]

NAME: str = "BPO"

NEEDED: tuple[str, ...] = ("prompt", "completions")
"""The fields that a file is known by."""

LONGEST = 350
"""Words that an answer may have."""

TOO_LONG = f"an answer of more than {LONGEST} words"
TIED = "two answers of one score"
EQUAL = "two equal answers"

KNOWN: tuple[str, ...] = ("id", "prompt", "image", "completions")


def matches(records: Sequence[Record]) -> bool:
    """Whether a file with these records is of this format."""
    return {*NEEDED} <= {*records[0].fields}


def read(
    path: Path | str, images: Path | str | None = None, *, skip_missing: bool = False, check_images: bool = True
) -> Preferences:
    """Read one file; arguments and errors as in ``pairing.pairs_of``."""
    return pairs_of(Path(path), images, _pairs, skip_missing=skip_missing, check_images=check_images)


def write(pairs: Sequence[PreferencePair], path: Path | str) -> None:
    """Write pairs as ``read`` reads them, two answers each; labelled spans have no place there and are left out.

    Raises:
        DataError: a pair has several pictures, or one that is no file.
    """
    path = Path(path)
    write_records(path, [_record(pair, index, path) for index, pair in enumerate(pairs)], KNOWN)


def _pairs(record: Record, root: Path) -> Iterator[PreferencePair | SkippedPair]:
    question = unwrapped(record.text("prompt", needed=True))
    image = record.text("image")
    given = record.fields.get("id", f"{record.path.stem}-{record.index}")
    answers: list[tuple[int, float, str, str]] = []
    for number, one in enumerate(record.records("completions")):
        text, score = one.text("response").strip(), one.fields.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise one.error("is missing" if score is None else f"a number was expected, not {score!r}", "score")
        if not text:
            yield SkippedPair(f"{given}-{number}", EMPTY)
        elif len(text.split()) > LONGEST:
            yield SkippedPair(f"{given}-{number}", TOO_LONG)
        else:
            answers.append((number, score, text, one.text("type")))
    for pair in combinations(answers, 2):
        worse, better = sorted(pair, key=lambda one: one[1])
        name = f"{given}-{better[0]}-{worse[0]}"
        if worse[1] == better[1]:
            yield SkippedPair(name, TIED)
        elif worse[2] == better[2]:
            yield SkippedPair(name, EQUAL)
        else:
            notes: dict[str, Any] = {"scores": [better[1], worse[1]], "types": [better[3], worse[3]]}
            yield PreferencePair(
                id=name,
                question=question,
                chosen=better[2],
                rejected=worse[2],
                image=as_pictures([root / image] if image else []),
                origin=worse[3],
                notes=notes_of({name: value for name, value in record.fields.items() if name not in KNOWN} | notes),
            )


def _record(pair: PreferencePair, index: int, path: Path) -> dict[str, Any]:
    def refuse(problem: str) -> DataError:
        return DataError(f"pair '{pair.id}' cannot be written as {NAME}: {problem}", path=path, record=index)

    names = picture_name(pair, path, refuse)
    if len(names) > 1:
        raise refuse("it has several pictures")
    notes = values_of(pair.notes)
    scores, types = notes.get("scores", [1, 0]), notes.get("types", ["gt", pair.origin])
    question = pair.question if not names or "<image>" in pair.question else f"<image>\n{pair.question}"
    answers = (
        {"score": score, "response": text, "type": kind}
        for score, text, kind in zip(scores, (pair.chosen, pair.rejected), types, strict=True)
    )
    made: dict[str, Any] = {"id": pair.id, "prompt": question, "completions": list(answers)}
    return made | ({"image": names[0]} if names else {})
