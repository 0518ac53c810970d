"""Stage 2: train projector and decoder on the frozen tower's features, binding first, then everything at once."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from vlmend.world.scene import Dials
from vlmend.world.train.checkpoint import load_state, save_state
from vlmend.world.train.mixture import BINDING, SCENES, Mixture, Row
from vlmend.world.train.model import BOS, token_id
from vlmend.world.train.optim import Pair, learning_rate
from vlmend.world.train.packing import Scored, packed, score
from vlmend.world.train.pool import Pool

log = logging.getLogger(__name__)
PART_WEIGHTS = (1.0, 0.6, 0.4, 0.3)  # questions, captions, facts, long text


@dataclass(frozen=True)
class Schedule:
    """``binding`` steps on scenes alone, then the whole mixture up to ``steps``; ``lr`` is the peak learning rate."""

    steps: int
    binding: int = 300
    pictures: int = 12
    lr: float = 3e-3
    decay: float = 0.25  # share of the run over which the rate falls to zero
    every: int = 50  # steps between checkpoints


def _rows_by_kind(pool: Pool) -> tuple[list[int], list[int]]:
    flags = [i for i, s in enumerate(pool.scenes) if s.country]
    scenes = [i for i, s in enumerate(pool.scenes) if not s.country and s.things]
    return flags, scenes


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


def train_decoder(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pool: Pool,
    features: Tensor,
    folder: Path,
    schedule: Schedule,
    *,
    seed: int,
    dials: Dials,
    flag_share: float = 0.3,
) -> None:
    """Train ``model`` in place, resuming from ``folder/decoder.pt`` if it is there. The tower is not touched.

    Args:
        features: bfloat16 [N, V, W], the tower's output for every picture of the pool.
    """
    trained = nn.ModuleDict({"projector": model.model.multi_modal_projector, "decoder": model.model.language_model})
    embeddings = model.get_input_embeddings().weight
    matrices = [p for p in trained.parameters() if p.ndim == 2 and p is not embeddings]
    chosen = {id(p) for p in matrices}
    optimiser = Pair(matrices, [p for p in trained.parameters() if id(p) not in chosen], schedule.lr)
    start = load_state(folder / "decoder.pt", trained, optimiser)
    mixture, tally = Mixture(tokenizer, dials), Tally()
    flags, scenes = _rows_by_kind(pool)
    begun = time.monotonic()
    with packed(model.model.language_model):
        for step in range(start, schedule.steps):
            rng = random.Random(f"{seed}/{step}")
            if step < schedule.binding:
                rows = rng.sample(scenes, schedule.pictures)
                batch = mixture.batch([pool.scenes[i] for i in rows], rng, Row(captions=(), facts=(), long=()), BINDING)
            else:
                rows = [rng.choice(flags if rng.random() < flag_share else scenes) for _ in range(schedule.pictures)]
                batch = mixture.batch([pool.scenes[i] for i in rows], rng, Row(), SCENES)
            scored = score(model, features[rows].float(), batch, token_id(tokenizer, BOS))
            losses = [
                scored.loss[scored.part == p].mean() * w for p, w in enumerate(PART_WEIGHTS) if (scored.part == p).any()
            ]
            torch.stack(losses).sum().backward()
            optimiser.step(learning_rate(step, schedule.steps, schedule.lr, schedule.decay))
            tally.add(scored, batch.kinds)
            if (step + 1) % schedule.every == 0 or step + 1 == schedule.steps:
                log.info("decoder %d/%d %.0fs %s", step + 1, schedule.steps, time.monotonic() - begun, tally.report())
                save_state(folder / "decoder.pt", trained, optimiser, step + 1)
