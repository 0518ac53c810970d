"""The whole recipe: pictures, encoder, features, decoder, a folder that transformers loads. Seeded and resumable.

Everything that is expensive is kept in the work folder; a killed run goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast, SiglipVisionModel

from vlmend.errors import VlmendError
from vlmend.models.bundled import bundled_folder
from vlmend.runs import Run, write_json
from vlmend.world.scene import Dials
from vlmend.world.train.align import align
from vlmend.world.train.backbones import BACKBONES, Built, Size
from vlmend.world.train.checkpoint import save_tensors
from vlmend.world.train.decoder import BRIDGED, CHECKPOINT, FULL, Schedule, train_decoder
from vlmend.world.train.pool import MIX, Mix, draw_scenes, make_pool
from vlmend.world.train.queries import FORMER, VISION, Stage, asked, train_queries
from vlmend.world.train.tower import PHASES, Phase, encode, patches, train_tower, vision_config
from vlmend.world.train.words import make_tokenizer

log = logging.getLogger(__name__)
RECIPE = "recipe.json"  # what a model was made by, in its own folder
SEEN_FLAGS = Mix(invented=0.0)  # the decoder is asked for the names of flags


@dataclass(frozen=True)
class Recipe:
    """Every number that the weights depend on, beside the world itself.

    Attributes:
        backbone: which architecture.
        tower_from: a bundled model whose tower is taken; without one, a tower is trained.
        vision, former: how a backbone with a Q-Former gets its vision transformer from the tower, and its queries.
    """

    seed: int = 0
    backbone: str = "llava"
    tower_from: str = ""
    tower_pictures: int = 40_000
    tower: tuple[Phase, ...] = PHASES
    vision: Stage = VISION
    former: Stage = FORMER
    decoder_pictures: int = 40_000
    align_steps: int = 300
    schedules: tuple[Schedule, ...] = FULL
    size: Size = field(default_factory=Size)
    dials: Dials = field(default_factory=Dials)


QUERIED = Recipe(tower_from="demo-llava", schedules=BRIDGED)
RECIPES = {
    "llava": Recipe(seed=1),
    "blip2": replace(QUERIED, seed=2, backbone="blip2"),
    "minigpt4": replace(QUERIED, seed=3, backbone="minigpt4"),
}
"""The shipped models'."""


@dataclass(frozen=True)
class Means:
    """What a run is given that its weights do not depend on, beyond rounding.

    Attributes:
        device: where it trains.
        workers: processes that render pictures; on another device than the processor, also those that prepare steps.
    """

    device: str = "cpu"
    workers: int = 2


def _tower(folder: Path, recipe: Recipe, means: Means) -> SiglipVisionModel:
    """The trained tower: from a bundled model, or from the folder if it is there."""
    tower = SiglipVisionModel(vision_config()).eval()
    if recipe.tower_from:
        source = bundled_folder(recipe.tower_from)
        if source is None:
            raise VlmendError(f"no model '{recipe.tower_from}' comes with the package, to take its tower from")
        whole: Any = AutoModelForImageTextToText.from_pretrained(source)
        tower.load_state_dict(whole.float().model.vision_tower.state_dict())
        return tower
    done = folder / "tower.safetensors"
    if not done.exists():
        pool = make_pool(recipe.tower_pictures, recipe.seed + 1, MIX, recipe.dials, means.workers)
        save_tensors(done, train_tower(pool, folder, phases=recipe.tower, seed=recipe.seed).state_dict())
    tower.load_state_dict(load_file(done))
    return tower


def _by_patches(built: Built, folder: Path, recipe: Recipe, means: Means) -> Callable[[Tensor], Tensor]:
    """The tower as it is."""
    tower = _tower(folder, recipe, means)
    built.model.model.vision_tower.load_state_dict(tower.state_dict())
    return patches(tower.to(means.device))  # pyright: ignore[reportCallIssue, reportArgumentType] - torch's own method


def _by_queries(built: Built, folder: Path, recipe: Recipe, means: Means) -> Callable[[Tensor], Tensor]:
    """The vision transformer and the Q-Former, trained if the folder does not have them."""
    model, done = built.model.to(means.device), folder / "queries.safetensors"
    names = ("vision_model.", "qformer.", "query_tokens")
    if not done.exists():
        pool = make_pool(recipe.tower_pictures, recipe.seed + 1, MIX, recipe.dials, means.workers)
        tower = _tower(folder, recipe, means)
        train_queries(model, tower, pool, folder, recipe.vision, recipe.former, recipe.seed, means.device)
        save_tensors(done, {n: t.cpu() for n, t in model.state_dict().items() if n.startswith(names)})
    model.load_state_dict(load_file(done), strict=False)
    return lambda pixels: asked(model, pixels)


def _features(folder: Path, look: Callable[[Tensor], Tensor], recipe: Recipe, means: Means) -> Tensor:
    """What the frozen encoder makes of the decoder's pictures, from the folder if it is there."""
    kept = folder / "features.safetensors"
    if not kept.exists():
        log.info("encoding %d pictures", recipe.decoder_pictures)
        pool = make_pool(recipe.decoder_pictures, recipe.seed + 2, SEEN_FLAGS, recipe.dials, means.workers)
        save_tensors(kept, {"features": encode(look, pool, recipe.seed, means.device).cpu()})
    return load_file(kept)["features"].to(means.device)


def train(folder: Path, recipe: Recipe, means: Means = Means()) -> Path:
    """Run or resume the recipe in ``folder``; returns the folder of the finished model (bfloat16 safetensors).

    Raises:
        RunError: the folder holds a run of another recipe.
        VlmendError: there is no such model to take the tower from.
    """
    Run(folder, asdict(recipe)).close()
    tokenizer = make_tokenizer(recipe.size.vocabulary, recipe.seed)
    built = BACKBONES[recipe.backbone].make(recipe.size, tokenizer, recipe.seed)
    look = (_by_patches if built.opened else _by_queries)(built, folder, recipe, means)
    features = _features(folder, look, recipe, means)
    built.model.to(means.device)
    drawn = draw_scenes(recipe.decoder_pictures, recipe.seed + 2, SEEN_FLAGS, recipe.dials)
    if not (folder / CHECKPOINT).exists():
        align(built, tokenizer, drawn, features, steps=recipe.align_steps, seed=recipe.seed)
    train_decoder(
        built,
        tokenizer,
        drawn,
        features,
        folder,
        recipe.schedules,
        seed=recipe.seed,
        dials=recipe.dials,
        workers=0 if means.device == "cpu" else means.workers,
    )
    out = export(built, recipe.backbone, tokenizer, folder / "model")
    write_json(out / RECIPE, asdict(recipe))
    return out


def recorded(folder: Path) -> Any:
    """What the model in this folder was made by, as plain values; None where the folder does not say."""
    path = folder / RECIPE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def export(built: Built, backbone: str, tokenizer: PreTrainedTokenizerFast, out: Path) -> Path:
    """Save everything that ``vlmend.load`` needs."""
    built.model.generation_config.eos_token_id = tokenizer.eos_token_id
    built.model.cpu().bfloat16().save_pretrained(out)
    BACKBONES[backbone].processor(tokenizer).save_pretrained(out)
    return out
