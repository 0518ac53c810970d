"""Stage 2: train projector and decoder on the frozen tower's features, binding first, then everything at once."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from vlmend.world.scene import Dials, Scene
from vlmend.world.train.backbones import Built, half_deep
from vlmend.world.train.checkpoint import load_state, save_state
from vlmend.world.train.mixture import BINDING, EVERYTHING, POLISH, Mixture, Stage
from vlmend.world.train.optim import Pair, learning_rate
from vlmend.world.train.packing import Packed, Scored, packed, score
from vlmend.world.train.words import BOS, token_id

log = logging.getLogger(__name__)
CHECKPOINT = "decoder.pt"
SHARDS = 2  # parts of a step that run side by side, each in a thread of its own; on another device it is one


@dataclass(frozen=True)
class Schedule:
    """How many steps of which stage, one after the other, under one curve of the learning rate.

    Attributes:
        stages: (steps, stage) in their order.
        half: for how many steps every second layer sleeps (``half_deep``).
        lr: the peak learning rate.
        decay: share of the run over which the rate falls to zero.
        every: steps between checkpoints.
    """

    stages: tuple[tuple[int, Stage], ...]
    half: int = 0
    lr: float = 2e-3
    decay: float = 0.25
    every: int = 50

    @property
    def steps(self) -> int:
        """Of all stages together."""
        return sum(steps for steps, _ in self.stages)


def binding_first(steps: int, binding: int = 450, half: int = 1500) -> Schedule:
    """``binding`` steps of binding, then the whole mixture up to ``steps``."""
    return Schedule(((min(binding, steps), BINDING), (max(0, steps - binding), EVERYTHING)), half)


LAST = replace(POLISH, shares={**POLISH.shares, "which": 1.6, "place": 0.8})
"""Polishing with more of the two kinds of question that lose most in held-out phrasings."""
OPENED = replace(LAST, opened=0.3)
"""The same, with openings such as "say: " before questions: a held-out "tell: " is taken for "describe" otherwise."""


def polishing(steps: int, stage: Stage = POLISH) -> Schedule:
    """``steps`` of polishing, at a rate that falls from early on."""
    return Schedule(((steps, stage),), lr=1e-3, decay=0.6)


def wide(schedule: Schedule) -> Schedule:
    """Twice the pictures a step, and all questions on a picture in one group: what suits a device that waits for the
    next operation more than it computes."""
    stages = [(n, replace(s, pictures=2 * s.pictures, questions=(sum(s.questions),))) for n, s in schedule.stages]
    return replace(schedule, stages=tuple(stages), every=500)


FULL = (binding_first(steps=4800), polishing(700), polishing(500), polishing(300, LAST), polishing(300, OPENED))
"""The shipped LLaVA's."""
BRIDGED = tuple(
    map(wide, (binding_first(3600), polishing(500), polishing(400), polishing(250, LAST), polishing(250, OPENED)))
)
"""That of the shipped models with a Q-Former."""


class Sampler:
    """Draws rows for a stage: flags by their share, and scenes with as many kinds as the stage has."""

    def __init__(self, drawn: Sequence[Scene], stage: Stage) -> None:
        self.stage = stage
        self.flags = [i for i, s in enumerate(drawn) if s.country]
        self.scenes = [
            i
            for i, s in enumerate(drawn)
            if not s.country and s.things and (not stage.kinds or len(s.counts) in stage.kinds)
        ]

    def rows(self, rng: random.Random) -> list[int]:
        """One step's pictures."""
        return [
            rng.choice(self.flags if rng.random() < self.stage.flags else self.scenes)
            for _ in range(self.stage.pictures)
        ]


class Steps(Dataset[list[tuple[list[int], Packed]]]):
    """Every step of all schedules: for each shard the rows of its pictures, and the questions on them.

    A step is drawn from the seed and its number alone, so that workers can prepare it and a resumed run has the same.
    """

    def __init__(
        self, schedules: Sequence[Schedule], drawn: Sequence[Scene], mixture: Mixture, seed: int, shards: int
    ) -> None:
        self.drawn, self.mixture, self.seed, self.shards = drawn, mixture, seed, shards
        self.plan: list[tuple[Schedule, int, Sampler]] = []
        for schedule in schedules:
            samplers = [s for steps, stage in schedule.stages for s in [Sampler(drawn, stage)] * steps]
            self.plan += [(schedule, step, sampler) for step, sampler in enumerate(samplers)]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> list[tuple[list[int], Packed]]:
        sampler = self.plan[index][2]
        rng = random.Random(f"{self.seed}/{index}")
        rows = sampler.rows(rng)
        shards = [(rows[i :: self.shards], random.Random(rng.getrandbits(64))) for i in range(self.shards)]
        return [(some, self.mixture.batch([self.drawn[i] for i in some], own, sampler.stage)) for some, own in shards]


class Tally:
    """Running share of blocks whose whole answer is right, by kind of turn, since the last report."""

    def __init__(self) -> None:
        self.added: list[tuple[Tensor, tuple[str, ...]]] = []

    def add(self, scored: Scored, kinds: tuple[str, ...]) -> None:
        wrong = scored.loss.new_zeros(len(kinds)).index_add_(0, scored.block, (~scored.right).float())
        self.added.append((wrong, kinds))  # read when it is told: a device is not waited for before

    def report(self) -> str:
        right: Counter[str] = Counter()
        every: Counter[str] = Counter()
        for wrong, kinds in self.added:
            for kind, misses in zip(kinds, wrong.tolist(), strict=True):
                every[kind] += 1
                right[kind] += misses == 0
        self.added.clear()
        return " ".join(f"{k} {right[k] / n:.2f}" for k, n in sorted(every.items()))


@contextmanager
def one_thread_each() -> Generator[None, None, None]:
    """Within the block every torch operation runs in one thread: two shards side by side are faster than two threads
    that meet at every operation, and what is computed does not depend on the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_decoder(
    built: Built,
    tokenizer: PreTrainedTokenizerFast,
    drawn: Sequence[Scene],
    features: Tensor,
    folder: Path,
    schedules: Sequence[Schedule],
    *,
    seed: int,
    dials: Dials,
    workers: int = 0,
) -> None:
    """Train projector and decoder in place, resuming from the folder's checkpoint if it is there.

    Args:
        built: on the features' device.
        drawn: the N scenes to ask about.
        features: bfloat16 [N, V, W], what the projector is given for a picture of each.
        workers: processes that prepare steps; none are needed where a step takes longer than its questions.
    """
    trained = nn.ModuleDict({"projector": built.projector, "decoder": built.decoder})
    device = features.device.type
    embeddings = built.embed.weight
    matrices = [p for p in trained.parameters() if p.ndim == 2 and p is not embeddings]
    chosen = {id(p) for p in matrices}
    shards = SHARDS if device == "cpu" else 1
    pool = ThreadPoolExecutor(shards)
    rest = [p for p in trained.parameters() if id(p) not in chosen]
    optimiser = Pair(matrices, rest, schedules[0].lr, pool.map if shards > 1 else map)
    start = load_state(folder / CHECKPOINT, trained, optimiser)
    steps = Steps(schedules, drawn, Mixture(tokenizer, dials, built.visual, built.opened), seed, shards)
    tally, bos = Tally(), token_id(tokenizer, BOS)

    def shard(asked: tuple[list[int], Packed]) -> tuple[Packed, Scored, list[Tensor | None]]:
        rows, batch = asked[0], asked[1].to(device)
        scored = score(built, features[rows].float(), batch, bos)
        loss = (scored.means(len(batch.weights)) * torch.tensor(batch.weights, device=device)).sum() / shards
        return batch, scored, list(torch.autograd.grad(loss, optimiser.parameters, allow_unused=True))

    begun = time.monotonic()
    ahead: Any = DataLoader(
        steps, batch_size=None, sampler=range(start, len(steps)), num_workers=workers, collate_fn=list
    )
    with packed(built.decoder), one_thread_each(), pool:
        for done, asked in enumerate(ahead, start + 1):
            schedule, step, _ = steps.plan[done - 1]
            with half_deep(built) if step < schedule.half else nullcontext():
                shares = list(pool.map(shard, asked) if shards > 1 else map(shard, asked))
            for parameter, *gradients in zip(optimiser.parameters, *(g for _, _, g in shares), strict=True):
                parameter.grad = gradients[0] if gradients[0] is None or shards == 1 else torch.stack(gradients).sum(0)
            optimiser.step(learning_rate(step, schedule.steps, schedule.lr, schedule.decay))
            for batch, scored, _ in shares:
                tally.add(scored, batch.kinds)
            if done % schedule.every == 0 or done == len(steps):
                log.info("decoder %d/%d %.0fs %s", done, len(steps), time.monotonic() - begun, tally.report())
                save_state(folder / CHECKPOINT, trained, optimiser, done)
