"""Edits that have to work together: one says whose picture this is, another what is so of them.

Neither edit has the answer to the composed question, "what is so of this?", and a model that was mended twice should
give it. Each pair is asked in every state: unedited, with either edit, with the second made on top of the first, and
with one edit made for both. With the first edit alone the composed question has an answer too: what the model knows of
them already. It is asked in two ways: outright, and so that the answer names the entity on the way. MMEdit's authors
leave open whether edits of several modalities work together (Cheng et al. 2023, arXiv 2310.08475).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from vlmend.data.records import EditCase, Example
from vlmend.editors.base import Editor
from vlmend.errors import EditError
from vlmend.evaluation.stats import Estimate, wilson
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.runs import Log

__all__ = ["STATES", "Composed", "Cooperation", "Pair", "Trial", "cooperate", "summed"]

STATES = {
    "unedited": "no edit",
    "seen": "the first",
    "known": "the second",
    "in turn": "both, in turn",
    "at once": "both, at once",
}
"""State -> what it is called in tables."""


@dataclass(frozen=True)
class Composed:
    """A question where two edits meet.

    Attributes:
        example: picture -> fact, with the answer that follows from both.
        beforehand: the answer that follows from the first alone.
    """

    example: Example
    beforehand: str


@dataclass(frozen=True)
class Pair:
    """Two edits and the questions where they meet.

    Attributes:
        id: its name.
        seen: the edit picture -> entity.
        known: the edit entity -> fact; a question without a picture.
        outright: the composed question.
        stepwise: the same with an answer that names the entity first.
    """

    id: str
    seen: EditCase
    known: EditCase
    outright: Composed
    stepwise: Composed


@dataclass(frozen=True, slots=True)
class Trial:
    """What was said of one pair in one state, and whether it is right there.

    Attributes:
        pair, state: which.
        said: answers to the two requests and the two composed questions; none where the editor could not make the
            edits.
        right: whether the two edits are heeded, and whether the composed answers follow from those in force; ``None``
            where it is not in force, or nothing follows from it.
    """

    pair: str
    state: str
    said: tuple[str, ...]
    right: tuple[bool | None, ...]

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Trial:
        """From a run folder's record."""
        return cls(record["pair"], record["state"], tuple(record["said"]), tuple(record["right"]))


@dataclass(frozen=True, slots=True)
class Cooperation:
    """One state over all pairs: shares of heeded edits and of right composed answers; a pair whose edits could not
    be made counts as wrong."""

    state: str
    seen: Estimate
    known: Estimate
    outright: Estimate
    stepwise: Estimate


def cooperate(
    vlm: VLM,
    editor: Editor,
    pairs: Sequence[Pair],
    *,
    max_new_tokens: int = 32,
    log: Log | None = None,
    progress: Callable[[], None] | None = None,
) -> list[Trial]:
    """Try every pair in every state.

    Args:
        vlm: the model; left bit for bit as it was.
        editor: what makes the edits.
        pairs: what is tried.
        max_new_tokens: bound on answers.
        log: where finished trials are found and new ones added.
        progress: called after each pair.

    Raises:
        EditError: there are no pairs.
    """
    if not pairs:
        raise EditError("there are no pairs of edits")
    found = [Trial.restored(record) for record in (log.records if log else ())]
    done = {(trial.pair, trial.state) for trial in found}
    for pair in pairs:
        for state in STATES:
            if (pair.id, state) in done:
                continue
            trial = _tried(vlm, editor, pair, state, max_new_tokens)
            found.append(trial)
            if log is not None:
                log.append(asdict(trial))
        if progress is not None:
            progress()
    return found


def _tried(vlm: VLM, editor: Editor, pair: Pair, state: str, limit: int) -> Trial:
    due = _due(pair, state)
    asked = [pair.seen.request, pair.known.request, pair.outright.example, pair.stepwise.example]
    try:
        with _in(vlm, editor, pair, state):
            said = vlm.generate(vlm.prepare(asked), max_new_tokens=limit)
    except EditError:  # an editor that makes no edit without a picture, say
        return Trial(pair.id, state, (), tuple(None if one is None else False for one in due))
    right = tuple(None if one is None else matches(text, (one,)) for text, one in zip(said, due, strict=True))
    return Trial(pair.id, state, tuple(said), right)


def _due(pair: Pair, state: str) -> tuple[str | None, ...]:
    """What the answers should be in a state."""
    whose, what = (case.request.answer if state not in out else None for case, out in _without(pair))
    composed = [one.example.answer if what else one.beforehand for one in (pair.outright, pair.stepwise)]
    return whose, what, *(composed if whose else (None, None))


def _without(pair: Pair) -> tuple[tuple[EditCase, tuple[str, ...]], ...]:
    """Each edit, and the states where it is not in force."""
    return (pair.seen, ("unedited", "known")), (pair.known, ("unedited", "seen"))


@contextmanager
def _in(vlm: VLM, editor: Editor, pair: Pair, state: str) -> Generator[None]:
    """The model in one state."""
    cases = [case for case, out in _without(pair) if state not in out]
    if not cases:
        yield
    elif state == "in turn":
        with vlm.using(editor.fit(vlm, cases[:1])):
            second = editor.fit(vlm, cases[1:])
            with vlm.using(second):
                yield
    else:
        with vlm.using(editor.fit(vlm, cases)):
            yield


def summed(trials: Sequence[Trial]) -> list[Cooperation]:
    """Shares over all pairs, state by state."""
    of = {state: [trial for trial in trials if trial.state == state] for state in STATES}
    return [Cooperation(state, *(_share(some, place) for place in range(4))) for state, some in of.items() if some]


def _share(trials: Sequence[Trial], place: int) -> Estimate:
    known = [trial.right[place] for trial in trials if trial.right[place] is not None]
    return wilson(sum(map(bool, known)), len(known))
