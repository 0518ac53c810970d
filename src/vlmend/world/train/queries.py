"""Stage 1b, for backbones with a Q-Former: the tower becomes their vision transformer, queries learn to hold pictures.

The transformer begins as the tower's weights and learns to give the same features beside the class token that the
tower has not. Then every query learns to hold what two neighbouring patches show: through a read-out that is thrown
away, it is to tell their features and their dense labels. BLIP-2 trains its queries by captions instead (its stage 1);
32 of them would have to find out by themselves where to look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SiglipVisionModel

from vlmend.world.train.checkpoint import load_state, save_state
from vlmend.world.train.optim import Pair, learning_rate
from vlmend.world.train.pool import Pool
from vlmend.world.train.tower import WIDTH, LabelHeads, Phase

log = logging.getLogger(__name__)
READ = Phase(0, 0.0, count=2.0, several=3.0)  # weights of the labels; steps and rate are the stage's


@dataclass(frozen=True)
class Stage:
    """So many steps of so many pictures at a peak learning rate."""

    steps: int
    lr: float
    batch: int = 64


VISION, FORMER = Stage(800, 5e-4), Stage(2500, 2e-3)
"""The shipped models'."""


def transplanted(tower: SiglipVisionModel) -> dict[str, Tensor]:
    """A tower's weights under the names of BLIP-2's vision transformer; its class token is not among them."""
    old: Any = tower.state_dict()
    root = next(name.removesuffix("post_layernorm.weight") for name in old if name.endswith("post_layernorm.weight"))
    old = {name.removeprefix(root): value for name, value in old.items()}
    new = {
        "embeddings.patch_embedding.weight": old["embeddings.patch_embedding.weight"],
        "embeddings.patch_embedding.bias": old["embeddings.patch_embedding.bias"],
    }
    plain = {"layer_norm1": "layer_norm1", "layer_norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    plain |= {"self_attn.projection": "self_attn.out_proj"}
    for layer in range(tower.config.num_hidden_layers):
        at = f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            new |= {f"{at}{mine}.{kind}": old[f"{at}{its}.{kind}"] for mine, its in plain.items()}
            parts = [old[f"{at}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            new[f"{at}self_attn.qkv.{kind}"] = torch.cat(parts)
    return new | {name: old[name] for name in ("post_layernorm.weight", "post_layernorm.bias")}


def begin_as(vision: Any, tower: SiglipVisionModel) -> None:
    """Give a vision transformer of BLIP-2 the tower's weights, and its class token a small one of its own."""
    absent, unknown = vision.load_state_dict(transplanted(tower), strict=False)
    assert not unknown
    assert set(absent) == {"embeddings.class_embedding", "embeddings.position_embedding"}
    with torch.no_grad():
        places: Any = tower.get_submodule("embeddings" if hasattr(tower, "embeddings") else "vision_model.embeddings")
        vision.embeddings.position_embedding[0, 1:] = places.position_embedding.weight
        vision.embeddings.position_embedding[0, 0] = 0
        nn.init.normal_(vision.embeddings.class_embedding, std=0.02)


def asked(model: Any, pixels: Tensor) -> Tensor:
    """What the queries of a BLIP-2 say of pixels, [B, queries, width]: what its projection is given."""
    seen = model.vision_model(pixel_values=pixels).last_hidden_state
    queries = model.query_tokens.expand(len(pixels), -1, -1)
    return model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state


def _batches(pool: Pool, stage: Stage, start: int, seed: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels and labels of every step from ``start`` on, drawn from the seed and the step's number."""
    pixels, labels, noise = (torch.from_numpy(a).to(device) for a in (pool.pixels, pool.labels, pool.noise))
    for step in range(start, stage.steps):
        dice = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(pool), (stage.batch,), generator=dice, device=device)
        shown = pixels[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
        shown += torch.randn(shown.shape, generator=dice, device=device) * noise[rows].view(-1, 1, 1, 1)
        yield shown, labels[rows]


def _train(
    name: str,
    modules: nn.ModuleDict,
    loss_of: Callable[[Tensor, Tensor], tuple[Tensor, dict[str, float]]],
    pool: Pool,
    folder: Path,
    stage: Stage,
    seed: int,
    device: str,
) -> None:
    """Train some modules in place, resuming from ``folder/{name}.pt``."""
    matrices = [p for n, p in modules.named_parameters() if p.ndim == 2 and "heads" not in n]
    chosen = {id(p) for p in matrices}
    optimiser = Pair(matrices, [p for p in modules.parameters() if id(p) not in chosen], stage.lr)
    start, begun = load_state(folder / f"{name}.pt", modules, optimiser), time.monotonic()
    for done, (pixels, labels) in enumerate(_batches(pool, stage, start, seed, device), start + 1):
        loss, told = loss_of(pixels, labels)
        loss.backward()
        optimiser.step(learning_rate(done - 1, stage.steps, stage.lr, decay=0.5))
        if done % 100 == 0 or done == stage.steps:
            shown = " ".join(f"{key} {value:.3f}" for key, value in told.items())
            log.info(
                "%s %d/%d %.0fs loss %.4f %s", name, done, stage.steps, time.monotonic() - begun, loss.item(), shown
            )
            save_state(folder / f"{name}.pt", modules, optimiser, done)


def train_queries(
    model: Any, tower: SiglipVisionModel, pool: Pool, folder: Path, vision: Stage, former: Stage, seed: int, device: str
) -> None:
    """Train a BLIP-2's vision transformer and Q-Former in place, on ``device``; both are frozen afterwards."""
    torch.manual_seed(seed)
    tower = tower.to(device).eval()  # pyright: ignore[reportCallIssue, reportArgumentType] - torch's own method
    begin_as(model.vision_model, tower)

    def like_tower(pixels: Tensor, _: Tensor) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            wanted = tower(pixel_values=pixels).last_hidden_state
        given = model.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
        return nn.functional.mse_loss(given, wanted) / wanted.var(), {}

    _train("vision", nn.ModuleDict({"vision": model.vision_model}), like_tower, pool, folder, vision, seed, device)
    model.vision_model.requires_grad_(False)
    pair = 2 * WIDTH
    reader = nn.ModuleDict(
        {"out": nn.Linear(model.config.qformer_config.hidden_size, pair), "heads": LabelHeads(WIDTH)}
    )
    reader.to(device)

    def holds_all(pixels: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            wanted = model.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
        told = reader["out"](asked(model, pixels)).unflatten(2, (2, WIDTH)).flatten(1, 2)
        loss, right = reader["heads"](told, labels, READ)
        far = nn.functional.mse_loss(told, wanted) / wanted.var()
        return loss + far, {"far": far.item(), **right}

    queries = nn.ParameterDict({"queries": model.query_tokens})
    modules = nn.ModuleDict({"former": model.qformer, "queries": queries, "reader": reader})
    _train("queries", modules, holds_all, pool, folder, former, seed + 1, device)
    model.qformer.requires_grad_(False)
    model.query_tokens.requires_grad_(False)
