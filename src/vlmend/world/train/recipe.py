"""The whole recipe: pictures, tower, features, decoder, a folder that transformers loads. Seeded and resumable.

Everything that is expensive is kept in the work folder; a killed run goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast, SiglipVisionModel

from vlmend.runs import Run, write_json
from vlmend.world.scene import Dials
from vlmend.world.train.align import align
from vlmend.world.train.checkpoint import save_tensors
from vlmend.world.train.decoder import CHECKPOINT, FULL, Schedule, train_decoder
from vlmend.world.train.model import Size, make_model, make_processor, make_tokenizer
from vlmend.world.train.pool import MIX, Mix, draw_scenes, make_pool
from vlmend.world.train.tower import PHASES, Phase, encode, train_tower, vision_config

log = logging.getLogger(__name__)
RECIPE = "recipe.json"  # what a model was made by, in its own folder
SEEN_FLAGS = Mix(invented=0.0)  # the decoder is asked for the names of flags


@dataclass(frozen=True)
class Recipe:
    """Every number that the weights depend on, beside the world itself."""

    seed: int = 0
    tower_pictures: int = 40_000
    tower: tuple[Phase, ...] = PHASES
    decoder_pictures: int = 40_000
    align_steps: int = 300
    schedules: tuple[Schedule, ...] = FULL
    size: Size = field(default_factory=Size)
    dials: Dials = field(default_factory=Dials)


def _tower(folder: Path, recipe: Recipe) -> SiglipVisionModel:
    """The trained tower, from the folder if it is there."""
    done = folder / "tower.safetensors"
    if not done.exists():
        pool = make_pool(recipe.tower_pictures, recipe.seed + 1, MIX, recipe.dials)
        trained = train_tower(pool, folder, phases=recipe.tower, seed=recipe.seed)
        save_tensors(done, trained.state_dict())
    tower = SiglipVisionModel(vision_config()).eval()
    tower.load_state_dict(load_file(done))
    return tower


def _features(folder: Path, tower: SiglipVisionModel, recipe: Recipe) -> Tensor:
    """What the tower makes of the decoder's pictures, from the folder if it is there."""
    kept = folder / "features.safetensors"
    if not kept.exists():
        log.info("encoding %d pictures", recipe.decoder_pictures)
        pool = make_pool(recipe.decoder_pictures, recipe.seed + 2, SEEN_FLAGS, recipe.dials)
        save_tensors(kept, {"features": encode(tower, pool, recipe.seed)})
    return load_file(kept)["features"]


def train(folder: Path, recipe: Recipe) -> Path:
    """Run or resume the recipe in ``folder``; returns the folder of the finished model (bfloat16 safetensors).

    Raises:
        RunError: the folder holds a run of another recipe.
    """
    Run(folder, asdict(recipe)).close()
    tokenizer = make_tokenizer(recipe.size.vocabulary, recipe.seed)
    tower = _tower(folder, recipe)
    features = _features(folder, tower, recipe)
    drawn = draw_scenes(recipe.decoder_pictures, recipe.seed + 2, SEEN_FLAGS, recipe.dials)
    model = make_model(recipe.size, tokenizer, recipe.seed)
    if not (folder / CHECKPOINT).exists():
        align(model, tokenizer, drawn, features, steps=recipe.align_steps, seed=recipe.seed)
    train_decoder(model, tokenizer, drawn, features, folder, recipe.schedules, seed=recipe.seed, dials=recipe.dials)
    out = export(model, tower, tokenizer, folder / "model")
    write_json(out / RECIPE, asdict(recipe))
    return out


def recorded(folder: Path) -> Any:
    """What the model in this folder was made by, as plain values; None where the folder does not say."""
    path = folder / RECIPE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def export(
    model: LlavaForConditionalGeneration, tower: SiglipVisionModel, tokenizer: PreTrainedTokenizerFast, out: Path
) -> Path:
    """Put the tower into the model and save everything that ``vlmend.load`` needs."""
    state: Mapping[str, Any] = tower.state_dict()
    target = model.model.vision_tower
    target.load_state_dict(state)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.bfloat16().save_pretrained(out)
    make_processor(tokenizer).save_pretrained(out)
    return out
