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

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from vlmend.world.scene import Dials, Scene
from vlmend.world.train.checkpoint import load_state, save_state
from vlmend.world.train.mixture import BINDING, EVERYTHING, POLISH, Mixture, Stage
from vlmend.world.train.model import BOS, half_deep, token_id
from vlmend.world.train.optim import Pair, learning_rate
from vlmend.world.train.packing import Packed, Scored, packed, score

log = logging.getLogger(__name__)
CHECKPOINT = "decoder.pt"
SHARDS = 2  # parts of a step that run side by side, each in a thread of its own


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


FULL = (binding_first(steps=4800), polishing(700), polishing(500), polishing(300, LAST), polishing(300, OPENED))
"""The shipped model's."""


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


def _steps(schedule: Schedule, drawn: Sequence[Scene]) -> list[tuple[Schedule, int, Sampler]]:
    """The schedule's steps: each with its number within the schedule and what draws its pictures."""
    samplers = [s for steps, stage in schedule.stages for s in [Sampler(drawn, stage)] * steps]
    return [(schedule, step, sampler) for step, sampler in enumerate(samplers)]


class Tally:
    """Running share of blocks whose whole answer is right, by kind of turn, since the last report."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.all: Counter[str] = Counter()

    def add(self, scored: Scored, kinds: tuple[str, ...]) -> None:
        wrong = torch.zeros(len(kinds)).index_add_(0, scored.block, (~scored.right).float())
        for kind, misses in zip(kinds, wrong.tolist(), strict=True):
            self.all[kind] += 1
            self.right[kind] += misses == 0

    def report(self) -> str:
        line = " ".join(f"{k} {self.right[k] / n:.2f}" for k, n in sorted(self.all.items()))
        self.right.clear()
        self.all.clear()
        return line


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
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    drawn: Sequence[Scene],
    features: Tensor,
    folder: Path,
    schedules: Sequence[Schedule],
    *,
    seed: int,
    dials: Dials,
) -> None:
    """Train ``model`` in place, resuming from the folder's checkpoint if it is there. The tower is not touched.

    Args:
        drawn: the N scenes to ask about.
        features: bfloat16 [N, V, W], the tower's output for a picture of each.
    """
    trained = nn.ModuleDict({"projector": model.model.multi_modal_projector, "decoder": model.model.language_model})
    embeddings = model.get_input_embeddings().weight
    matrices = [p for p in trained.parameters() if p.ndim == 2 and p is not embeddings]
    chosen = {id(p) for p in matrices}
    workers = ThreadPoolExecutor(SHARDS)
    rest = [p for p in trained.parameters() if id(p) not in chosen]
    optimiser = Pair(matrices, rest, schedules[0].lr, workers.map)
    start = load_state(folder / CHECKPOINT, trained, optimiser)
    mixture, tally = Mixture(tokenizer, dials), Tally()
    plan = [step for schedule in schedules for step in _steps(schedule, drawn)]
    bos = token_id(tokenizer, BOS)

    def shard(rows: Sequence[int], rng: random.Random, stage: Stage) -> tuple[Packed, Scored, list[Tensor | None]]:
        batch = mixture.batch([drawn[i] for i in rows], rng, stage)
        scored = score(model, features[rows].float(), batch, bos)
        losses = [scored.loss[scored.part == part].mean() * w for part, w in enumerate(batch.weights)]
        loss = torch.stack(losses).sum() / SHARDS
        return batch, scored, list(torch.autograd.grad(loss, optimiser.parameters, allow_unused=True))

    begun = time.monotonic()
    with packed(model.model.language_model), one_thread_each(), workers:
        for done, (schedule, step, sampler) in enumerate(plan[start:], start + 1):
            rng = random.Random(f"{seed}/{done - 1}")
            rows, stage = sampler.rows(rng), sampler.stage
            rngs = [random.Random(rng.getrandbits(64)) for _ in range(SHARDS)]
            with half_deep(model) if step < schedule.half else nullcontext():
                shards = list(workers.map(shard, (rows[i::SHARDS] for i in range(SHARDS)), rngs, [stage] * SHARDS))
            for parameter, *gradients in zip(optimiser.parameters, *(g for _, _, g in shards), strict=True):
                parameter.grad = None if gradients[0] is None else torch.stack(gradients).sum(0)
            optimiser.step(learning_rate(step, schedule.steps, schedule.lr, schedule.decay))
            for batch, scored, _ in shards:
                tally.add(scored, batch.kinds)
            if done % schedule.every == 0 or done == len(plan):
                log.info("decoder %d/%d %.0fs %s", done, len(plan), time.monotonic() - begun, tally.report())
                save_state(folder / CHECKPOINT, trained, optimiser, done)
