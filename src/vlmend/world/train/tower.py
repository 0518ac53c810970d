"""Stage 1: train the image encoder on dense patch labels, then throw the label heads away.

The labels say what each patch shows (kind, colour, pattern, how many of the kind, place, position; for flags layout,
colours and emblem). Countries are not among them: which country a flag belongs to is for the decoder to learn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from vlmend.world.render import SIZE
from vlmend.world.train.checkpoint import load_state, save_state
from vlmend.world.train.optim import Pair, learning_rate
from vlmend.world.train.pool import IGNORE, PATCH, Pool, label_sizes, pixel_values

log = logging.getLogger(__name__)
WEIGHTS = {
    "kind": 3.0,
    "row": 0.2,
    "column": 0.2,
    "place": 0.1,
    "first": 0.5,
    "second": 0.5,
    "third": 0.5,
}
WIDTH = 160
BACKGROUND = 0.1  # weight of a patch without a thing in the loss of its kind


@dataclass(frozen=True)
class Phase:
    """Part of the training: how many steps, the peak learning rate, the weight of the count's loss, and that of a patch
    whose kind is there several times in it."""

    steps: int
    lr: float
    count: float
    several: float


PHASES = (Phase(1600, 2e-3, count=0.5, several=1.0), Phase(600, 1e-3, count=3.0, several=3.0))
"""Counting comes last: it is not learnt before the kinds are."""


def vision_config() -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        vision_use_head=False,
    )


class LabelHeads(nn.Module):
    """One linear read-out per dense label."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in label_sizes().items()})

    def forward(self, features_BPD: Tensor, labels_BPL: Tensor, phase: Phase) -> tuple[Tensor, dict[str, float]]:
        """Weighted cross-entropy, and the accuracy of each label where it applies."""
        loss, right = features_BPD.new_zeros(()), {}
        for i, (name, head) in enumerate(self.heads.items()):
            labels = labels_BPL[..., i]
            applies = labels != IGNORE
            if not applies.any():
                continue
            logits, target = head(features_BPD[applies]), labels[applies].long()
            weight = torch.ones_like(target, dtype=logits.dtype)
            if name == "kind":  # most patches show no thing
                weight[target == logits.shape[-1] - 1] = BACKGROUND
            shown = weight == 1
            if name == "count":
                weight[target > 0] = phase.several
            each = nn.functional.cross_entropy(logits, target, reduction="none")
            share = phase.count if name == "count" else WEIGHTS.get(name, 1.0)
            loss = loss + share * (each * weight).sum() / weight.sum()
            right[name] = (logits.argmax(-1) == target)[shown].float().mean().item()
        return loss, right


def train_tower(pool: Pool, folder: Path, *, phases: Sequence[Phase], seed: int, batch: int = 64) -> SiglipVisionModel:
    """Train (resuming from ``folder/tower.pt`` if it is there) and return the encoder in eval mode."""
    torch.manual_seed(seed)
    tower = SiglipVisionModel(vision_config())
    heads = LabelHeads(tower.config.hidden_size)
    matrices = [p for n, p in tower.named_parameters() if p.ndim == 2 and "position_embedding" not in n]
    chosen = {id(p) for p in matrices}
    rest = [p for p in [*tower.parameters(), *heads.parameters()] if id(p) not in chosen]
    optimiser = Pair(matrices, rest, phases[0].lr)
    modules = nn.ModuleDict({"tower": tower, "heads": heads})
    start = load_state(folder / "tower.pt", modules, optimiser)
    plan = [(phase, step) for phase in phases for step in range(phase.steps)]
    begun = time.monotonic()
    for done, (phase, step) in enumerate(plan[start:], start + 1):
        rng = np.random.default_rng((seed, done - 1))
        rows = rng.choice(len(pool), batch, replace=False)
        pixels = torch.from_numpy(pixel_values(pool, rows, rng))
        features = tower(pixel_values=pixels).last_hidden_state
        loss, right = heads(features, torch.from_numpy(pool.labels[rows]), phase)
        loss.backward()
        optimiser.step(learning_rate(step, phase.steps, phase.lr, decay=0.4))
        if done % 50 == 0 or done == len(plan):
            shown = " ".join(f"{name} {value:.3f}" for name, value in right.items())
            log.info("tower %d/%d %.0fs loss %.3f %s", done, len(plan), time.monotonic() - begun, loss.item(), shown)
            save_state(folder / "tower.pt", modules, optimiser, done)
    return tower.eval()


@torch.inference_mode()
def encode(look: Callable[[Tensor], Tensor], pool: Pool, seed: int, device: str = "cpu", batch: int = 256) -> Tensor:
    """Every picture's features, bfloat16 [N, V, W]; noisy pictures get their noise drawn once.

    Args:
        look: from float32 pixels [B, 3, SIZE, SIZE] to features [B, V, W], on the device.
    """
    out = []
    for i in range(0, len(pool), batch):
        rows = np.arange(i, min(i + batch, len(pool)))
        pixels = torch.from_numpy(pixel_values(pool, rows, np.random.default_rng((seed, i))))
        out.append(look(pixels.to(device)).to(torch.bfloat16))
    return torch.cat(out)


def patches(tower: SiglipVisionModel) -> Callable[[Tensor], Tensor]:
    """What a tower makes of pixels: the features of every patch."""
    return lambda pixels: tower(pixel_values=pixels).last_hidden_state
