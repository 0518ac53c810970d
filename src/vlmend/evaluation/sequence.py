"""Many edits one after another: what is left of the earlier ones, and what they do to all else, along the way.

Every edit is made on the model with the earlier ones in force, as a service makes them, or so many at a turn. At chosen
numbers of edits the probes of earlier cases are asked again (retention), and questions that no edit is about.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmend.data.records import EditCase, Example
from vlmend.editors.base import Editor, check_cases
from vlmend.edits.compact import compact
from vlmend.edits.edit import Edit
from vlmend.edits.left import LeftOp
from vlmend.edits.ops import WeightOp
from vlmend.edits.packing import packed
from vlmend.errors import EditError, RunError
from vlmend.evaluation.cost import measured
from vlmend.evaluation.editing import evaluate
from vlmend.evaluation.proof import without_nan
from vlmend.evaluation.protocols import DEFAULT, Protocol
from vlmend.evaluation.stats import Estimate, wilson
from vlmend.evaluation.text import matches
from vlmend.models.active import Active
from vlmend.models.prepared import Prepared
from vlmend.models.vlm import VLM
from vlmend.runs import Log

__all__ = ["POINTS", "HeldOut", "Point", "sequence"]

POINTS = (1, 10, 30, 100, 300, 1000)
_ROWS = 16  # how many questions' logits are held at once
_STACKED = 16  # edits of weights at most on top of each other, before they are added up


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Questions that no edit is about, before and after.

    Attributes:
        unchanged: share of the model's own answers that are what they were without edits.
        right_before, right_after: share of them that are right.
    """

    unchanged: Estimate
    right_before: Estimate
    right_after: Estimate


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured after so many edits.

    Attributes:
        edits: how many had been made, or tried.
        failed: how many of them the editor refused or could not make.
        retained: kind of probe -> its metric (`Summary`, as plain values) over earlier cases, the last one included.
        cases: how many earlier cases were asked.
        held_out: name -> what became of questions that no edit is about (`HeldOut`, as plain values).
        finite: whether every number is one: of the edits, and of what the model then holds likely where the known
            answers to the requests of the cases asked, and to held-out questions, stand.
        seconds_per_edit: wall seconds of making one, mean since the point before.
        seconds_per_query: wall seconds of one answer to a held-out question; ``None`` without any.
        bytes_per_edit: of tensors, mean over all edits made; what edits share counts once.
    """

    edits: int
    failed: int
    retained: Mapping[str, Any]
    cases: int
    held_out: Mapping[str, Any]
    finite: bool
    seconds_per_edit: float
    seconds_per_query: float | None
    bytes_per_edit: float


def sequence(
    vlm: VLM,
    editor: Editor,
    cases: Sequence[EditCase],
    *,
    at: Sequence[int] = POINTS,
    turn: int = 1,
    asked: int = 100,
    held_out: Mapping[str, Sequence[Example]] | None = None,
    protocol: Protocol = DEFAULT,
    max_new_tokens: int = 32,
    seed: int = 0,
    log: Log | None = None,
    folder: Path | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[Point]:
    """Edit cases one after another, and measure on the way.

    Args:
        vlm: the model; left bit for bit as it was.
        editor: what makes the edits.
        cases: in the order in which they are edited.
        at: after how many edits to measure, or at the end of the turn in which that many are made; numbers above that
            of the cases are left out.
        turn: how many cases are edited at once.
        asked: of how many earlier cases, at most, the probes are asked at a point; drawn by ``seed``.
        held_out: name -> examples that no case is about.
        protocol, max_new_tokens: as of `evaluate`.
        log: where finished points are found and new ones added.
        folder: where the edits made by each point are kept, so that a run that was cut short goes on there; needed
            with ``log``.
        progress: called after every case.

    Raises:
        EditError: a turn is of no case, there are no cases, a request has no target, no point lies within the cases, or
            no edit could be made by the second point, or by the only one.
        RunError: the edits made by the last finished point are not there, and more are to follow.
    """
    check_cases(cases)
    if turn < 1:
        raise EditError(f"a turn is of at least 1 case, not {turn}")
    points = sorted({point for point in at if 0 < point <= len(cases)})
    if not points:
        raise EditError(f"no point to measure at lies between 1 and the {len(cases)} cases")
    done = [Point(**record) for record in (log.records if log else ())]
    walk = _Walk(vlm, editor, protocol)
    if done and done[-1].edits < points[-1]:
        walk.goes_on(_kept(folder, done[-1]), done[-1])
    watch = _Watch(vlm, held_out or {}, protocol, max_new_tokens, seed, asked)
    with walk:
        for start in range(done[-1].edits if done else 0, points[-1], turn):
            some = cases[start : start + turn]
            walk.step(some)
            count = start + len(some)
            for _ in some:
                progress()
            if any(start < point <= count for point in points):
                if not walk.made and (done or count >= points[-1]):
                    why = f"; of the last one: {walk.refusal}" if walk.refusal else ""
                    raise EditError(f"none of the first {count} edits could be made{why}") from walk.refusal
                point = watch.point(walk, cases[:count])
                if folder is not None and walk.edit is not None:
                    walk.edit.save(_place(folder, count))
                if log is not None:
                    log.append(asdict(point))
                done.append(point)
    return done


def _place(folder: Path, count: int) -> Path:
    return folder / f"{count:05d}-edits"


def _kept(folder: Path | None, point: Point) -> Edit | None:
    """The edits made by a finished point; none where all of them failed."""
    if point.failed == point.edits:
        return None
    if folder is None:
        raise RunError(f"the {point.edits} edits made before were not kept: a sequence that goes on needs their folder")
    place = _place(folder, point.edits)
    if not place.exists():
        raise RunError(
            f"{place} is missing, and without the edits made by then this run cannot go on: put it back, or write to "
            "another folder"
        )
    return Edit.load(place)


class _Walk:
    """The edits made by now, in force while the next is made; within its context."""

    def __init__(self, vlm: VLM, editor: Editor, protocol: Protocol) -> None:
        self.vlm = vlm
        self._editor = editor
        self._protocol = protocol
        self._handles: list[Active] = []
        self._stacked = 0  # how many edits lie on top of each other
        self.edit: Edit | None = None
        self.made = self.failed = 0
        self.refusal: EditError | None = None  # of the last edit that could not be made
        self.size = 0  # bytes of all that was made
        self.seconds: list[float] = []  # of the edits since they were last asked for

    def goes_on(self, edit: Edit | None, point: Point) -> None:
        """From what an earlier run had made."""
        self.edit, self.failed = edit, point.failed
        self.made = point.edits - point.failed
        self.size = round(point.bytes_per_edit * self.made)

    def step(self, cases: Sequence[EditCase]) -> None:
        """Edit some more cases at once, and put that in force."""
        try:
            with measured(self.vlm.device) as cost:
                new = self._editor.fit(self.vlm, [self._protocol.worded(case) for case in cases])
        except EditError as error:
            self.failed += len(cases)
            self.refusal = error
            return
        self.seconds += [cost.seconds / len(cases)] * len(cases)
        self.made += len(cases)
        self.size += self._bytes(new)
        self.edit = replace(new if self.edit is None else self.edit + new, fitted_on=())
        self._stacked += 1
        # Changes of weights lie on each other as they are; to add them up takes whole matrices, so that it is put off.
        if self._stacked < _STACKED and all(isinstance(op, WeightOp | LeftOp) for op in new.ops):
            self._handles.append(self.vlm.apply(new))
        else:
            self.settle()
            self.resumed()

    def settle(self) -> None:
        """Take the edits back, and add up what they do."""
        self.paused()
        if self.edit is not None and self._stacked:
            self.edit = compact(self.edit, self.vlm.device)
        self._stacked = 0

    def paused(self) -> None:
        """Take the edits back until the next step."""
        while self._handles:
            self._handles.pop().undo()

    def resumed(self) -> None:
        """Put them in force again."""
        if not self._handles and self.edit is not None:
            self._handles.append(self.vlm.apply(self.edit))

    def _bytes(self, edit: Edit) -> int:
        """Of an edit's tensors that the earlier ones have not brought along."""
        known: dict[tuple[Any, ...], list[Tensor]] = {}
        for tensor in () if self.edit is None else packed(self.edit.ops)[1].values():
            known.setdefault((tensor.shape, tensor.dtype), []).append(tensor)
        own = {tensor.data_ptr(): tensor for tensor in packed(edit.ops)[1].values()}
        return sum(
            one.numel() * one.element_size()
            for one in own.values()
            if not any(_same(one, other) for other in known.get((one.shape, one.dtype), ()))
        )

    def __enter__(self) -> _Walk:
        self.resumed()
        return self

    def __exit__(self, *_: object) -> None:
        self.paused()


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they hold the same, which a run that goes on has in another place."""
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


class _Watch:
    """What is asked at every point."""

    def __init__(
        self,
        vlm: VLM,
        held_out: Mapping[str, Sequence[Example]],
        protocol: Protocol,
        max_new_tokens: int,
        seed: int,
        asked: int,
    ) -> None:
        self._vlm = vlm
        self._protocol = protocol
        self._limit = max_new_tokens
        self._seed = seed
        self._asked = asked
        self._held_out = {name: list(some) for name, some in held_out.items()}
        self._prepared = {name: vlm.prepare(some) for name, some in self._held_out.items()}
        self._said = {
            name: vlm.generate(rows, max_new_tokens=max_new_tokens or 32) for name, rows in self._prepared.items()
        }

    def point(self, walk: _Walk, cases: Sequence[EditCase]) -> Point:
        """Measure the edits made by now."""
        walk.settle()
        made = walk.edit or Edit(self._vlm.fingerprint, ())
        earlier = random.Random(f"{self._seed}/{len(cases)}").sample(range(len(cases)), min(self._asked, len(cases)))
        some = [cases[index] for index in sorted(earlier)]
        proof = evaluate(self._vlm, made, some, protocol=self._protocol, max_new_tokens=self._limit, gains=False)
        with self._vlm.using(made):
            begun = time.monotonic()
            replies = {
                name: self._vlm.generate(rows, max_new_tokens=self._limit or 32)
                for name, rows in self._prepared.items()
            }
            seconds, count = time.monotonic() - begun, sum(map(len, replies.values()))
            asked = self._vlm.prepare([self._protocol.worded(case).request for case in some])
            finite = all(self._says_numbers(rows) for rows in (asked, *self._prepared.values()))
        tensors = packed(made.ops)[1].values()
        point = Point(
            edits=len(cases),
            failed=walk.failed,
            retained=proof.metrics,
            cases=len(some),
            held_out={name: without_nan(asdict(self._compared(name, now))) for name, now in replies.items()},
            finite=finite and all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point()),
            seconds_per_edit=sum(walk.seconds) / max(1, len(walk.seconds)),
            seconds_per_query=seconds / count if count else None,
            bytes_per_edit=walk.size / max(1, walk.made),
        )
        walk.seconds.clear()
        walk.resumed()
        return point

    def _says_numbers(self, prepared: Prepared) -> bool:
        """Whether the likeliest token's logit is a number wherever an answer stands; what a model never says may be
        at minus infinity."""
        return all(
            bool(row.logits_NV.amax(-1).isfinite().all())
            for at in range(0, len(prepared), _ROWS)
            for row in self._vlm.run(prepared.take(range(at, min(at + _ROWS, len(prepared))))).rows
        )

    def _compared(self, name: str, now: Sequence[str]) -> HeldOut:
        before, examples = self._said[name], self._held_out[name]
        known = [index for index, example in enumerate(examples) if example.accepted]
        same = sum(matches(now[index], (said,)) for index, said in enumerate(before))
        right = [sum(matches(said[index], examples[index].accepted) for index in known) for said in (before, now)]
        return HeldOut(wilson(same, len(before)), *(wilson(count, len(known)) for count in right))
