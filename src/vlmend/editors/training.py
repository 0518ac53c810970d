"""How editors that must be trained before they edit are trained: one loop for all of them.

An editor's training is a frozen dataclass of hyper-parameters (`Trainable`), which for some cases gives a `Lesson`:
what is trained, the loss of a batch, and a check on cases held out. The loop draws batches, descends, checks, and keeps
the weights of the best check. Everything that is drawn at a step follows from the seed and the step, and all that the
next step needs is in one file that is replaced whole: a training that was killed goes on, and ends with the same
weights.
"""

from __future__ import annotations

import dataclasses
import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases
from vlmend.editors.checkpoint import Checkpoint
from vlmend.editors.shelf import Trained
from vlmend.edits.edit import library_versions
from vlmend.errors import EditError, UnknownNameError
from vlmend.models.vlm import VLM
from vlmend.runs import Run
from vlmend.words import counted

__all__ = ["TRAINABLE", "Check", "Lesson", "Trainable", "train", "trainable_class"]

TRAINABLE = {
    "ke": "vlmend.editors.ke_training:KETraining",
    "liveedit": "vlmend.editors.liveedit_training:LiveEditTraining",
    "lte": "vlmend.editors.lte_training:LTETraining",
    "mend": "vlmend.editors.mend_training:MENDTraining",
    "serac": "vlmend.editors.serac_training:SERACTraining",
    "vead": "vlmend.editors.vead_training:VEADTraining",
    "vead-memory": "vlmend.editors.vead_memory_training:VEADMemoryTraining",
}
"""Name of an editor -> the class of its training; loaded when it is asked for."""

_STATE = "state.safetensors"
_SEEDS = 1_000_003  # more than there are steps


@dataclass(frozen=True)
class Check:
    """What the weights are worth on the cases held out: the higher score is better, then the lower loss.

    ``parts`` is what the score is made of, by name.
    """

    score: float
    loss: float
    parts: Mapping[str, float]


class Lesson(Protocol):
    """One training under way."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def count(self) -> int:
        """How many cases there are to learn from."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What must be known to use the weights, as JSON values."""
        ...

    def loss(self, chosen: Sequence[int], draw: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of some of the cases to learn from, by their places, and its parts by name."""
        ...

    def check(self) -> Check:
        """What the present weights are worth."""
        ...


class Trainable(Protocol):
    """The training of an editor: a frozen dataclass whose fields are its hyper-parameters.

    Attributes:
        name: the editor's.
        steps: of Adam.
        batch: cases in a step.
        lr: learning rate.
        cooldown: share of the steps, the last, in which the learning rate falls to 0.
        held_out: share of the cases that are checked and not learnt from.
        check_every: steps from one check to the next.
        seed: of all that is drawn.
    """

    name: ClassVar[str]

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def cooldown(self) -> float: ...
    @property
    def held_out(self) -> float: ...
    @property
    def check_every(self) -> int: ...
    @property
    def seed(self) -> int: ...

    def lesson(self, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> Lesson:
        """Make ready to train on cases, and to check on others."""
        ...


def trainable_class(name: str) -> type[Any]:
    """The class of an editor's training.

    Raises:
        UnknownNameError: no editor of that name is trained.
    """
    if name not in TRAINABLE:
        raise UnknownNameError("editor that is trained", name, TRAINABLE)
    module, attribute = TRAINABLE[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def train(
    method: Trainable,
    vlm: VLM,
    cases: Sequence[EditCase],
    folder: Path | str,
    *,
    source: str = "",
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train an editor on cases, and save its weights in a folder; a training that was cut short there goes on.

    The folder is that of a run (`vlmend.runs`) with a record for every check; the best check's weights are in
    ``adapter.json`` and ``adapter.safetensors``, which is what the editor's ``weights`` setting names.

    Args:
        method: what is trained, and how.
        vlm: the model; left bit for bit as it was.
        cases: to learn from and to hold out.
        folder: made if absent.
        source: where the cases are from, to be kept with the weights.
        dtype: of the weights that are saved; a shorter one rounds them, after the checks.
        progress: called with (finished, all) steps.

    Raises:
        EditError: there are too few cases, an edit is in force, or the training diverges.
        RunError: the folder holds another training.
    """
    check_cases(cases)
    if vlm.active_edits:
        raise EditError("an editor is trained on the model as it is: take back the edits in force first")
    learned, held = held_apart(vlm, cases, method.held_out, method.seed)
    settings = {
        "editor": method.name,
        "model": vlm.name,
        "fingerprint": vlm.fingerprint,
        "cases": {"learned": [case.id for case in learned], "held out": [case.id for case in held], "source": source},
        "settings": dataclasses.asdict(method),  # type: ignore[call-overload]
        "versions": library_versions(),
    }
    with Run(folder, settings) as run:
        lesson = method.lesson(vlm, learned, held)
        best = _descend(method, lesson, run, progress)
        trained = Trained(
            editor=method.name,
            base=vlm.fingerprint,
            facts=dict(lesson.facts),
            tensors={
                name: tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()
                for name, tensor in best.best.items()
            },
            about={**settings, "best": best.best_record},
        )
        trained.save(run.folder)
        run.finish(best.best_record)
    return trained


def held_apart(vlm: VLM, cases: Sequence[EditCase], share: float, seed: int) -> tuple[list[EditCase], list[EditCase]]:
    """The cases to learn from, and those to hold out; no picture is asked about in both.

    Raises:
        EditError: one of the two would be empty.
    """
    pictures = [row.content for row in vlm.prepare([case.request for case in cases]).rows]
    distinct = sorted(set(pictures))
    random.Random(seed).shuffle(distinct)
    count, kept = round(share * len(cases)), set[str]()
    for picture in distinct:
        if sum(one in kept for one in pictures) >= count:
            break
        kept.add(picture)
    pairs = list(zip(cases, pictures, strict=True))
    learned, held = [c for c, picture in pairs if picture not in kept], [c for c, picture in pairs if picture in kept]
    if not learned or not held:
        few = f"{counted(len(cases), 'case')} {'is' if len(cases) == 1 else 'are'} too few"
        raise EditError(f"{few} to learn from some and hold out a share of {share} to check")
    return learned, held


def _descend(method: Trainable, lesson: Lesson, run: Run, progress: Callable[[int, int], None] | None) -> Checkpoint:
    module = lesson.module
    optimizer = torch.optim.Adam(module.parameters(), lr=method.lr)
    state = Checkpoint.found(run.folder / _STATE)
    if state is None:
        state = _checked(Checkpoint.begun(module), lesson, {})
        state.save(run.folder / _STATE)
    state.restore(module, optimizer)
    if len(run.records) < len(state.records):  # killed between the two
        run.append(state.records[-1])
    sums: dict[str, float] = {}
    for step in range(state.step, method.steps):
        for group in optimizer.param_groups:
            group["lr"] = method.lr * _warmth(step / method.steps, method.cooldown)
        draw = torch.Generator().manual_seed(_SEEDS * method.seed + step)
        loss, parts = lesson.loss(_batch(step, lesson.count, method.batch, method.seed), draw)
        if not bool(torch.isfinite(loss)):
            raise EditError(f"the training diverged: a smaller learning rate than {method.lr} is needed")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for name, value in {"loss": float(loss.detach()), **parts}.items():
            sums[name] = sums.get(name, 0.0) + value
        if progress is not None:
            progress(step + 1, method.steps)
        if (step + 1) % method.check_every == 0 or step + 1 == method.steps:
            since = step + 1 - state.step
            state = _checked(state.moved(step + 1, module, optimizer), lesson, {k: v / since for k, v in sums.items()})
            state.save(run.folder / _STATE)
            run.append(state.records[-1])
            sums = {}
    return state


def _checked(state: Checkpoint, lesson: Lesson, means: Mapping[str, float]) -> Checkpoint:
    """The state with a record of how good it is, and its weights as the best if they are."""
    check = lesson.check()
    record = {
        "step": state.step,
        "score": check.score,
        "held out loss": check.loss,
        "held out": dict(check.parts),
        "training": dict(means),
    }
    return state.recorded(record, lesson.module)


def _warmth(done: float, cooldown: float) -> float:
    return 1.0 if done < 1 - cooldown else (1 - done) / cooldown


def _batch(step: int, count: int, size: int, seed: int) -> list[int]:
    """The cases of a step: every case once, in a new order, before any comes again."""
    places = range(step * size, (step + 1) * size)
    orders = {place // count: list(range(count)) for place in places}
    for epoch, order in orders.items():
        random.Random(f"{seed}/{epoch}").shuffle(order)
    return [orders[place // count][place % count] for place in places]
