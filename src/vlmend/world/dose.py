"""How much a model hallucinates against how strong its prior was made: small models, one dial turned at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from transformers import SiglipVisionModel

from vlmend.evaluation.stats import Estimate
from vlmend.models.loading import load
from vlmend.runs import Run
from vlmend.world.exam.describing import chair_i, describe, draw_described, recall
from vlmend.world.plots import draw_dose
from vlmend.world.scene import DIALS, Dials
from vlmend.world.train.align import align
from vlmend.world.train.backbones import Size, llava
from vlmend.world.train.decoder import Schedule, train_decoder
from vlmend.world.train.mixture import SCENES, Stage
from vlmend.world.train.pool import MIX, make_pool
from vlmend.world.train.recipe import export
from vlmend.world.train.tower import encode, patches
from vlmend.world.train.words import make_tokenizer

DOSES: dict[str, tuple[float, ...]] = {
    "together": (0.0, 1.1),
    "told": (0.0, 1.6),
    "text": (0.0, 1.1),
    "text_share": (0.0, 3.0),
}
"""Dial -> the values it is turned to; every other dial stays at 1, and all at 1 is measured once."""

DESCRIBING = Stage(
    16, 0.0, SCENES, plain=0.6, questions=(2, 2), captions=(2,), long=(1,), long_shares={"typical": 0.8, "rewrite": 0.2}
)
"""Captions and the text that the dials turn, questions beside them; no countries."""


@dataclass(frozen=True)
class Trial:
    """The small model of a dose study, and how much is measured on it."""

    seed: int = 0
    pictures: int = 4000
    align_steps: int = 200
    schedule: Schedule = field(default_factory=lambda: Schedule(((300, DESCRIBING),), decay=0.4))
    size: Size = field(default_factory=lambda: Size(width=128, layers=4, ff=384))
    measured: int = 250


def measure(tower: SiglipVisionModel, trial: Trial, dials: Dials, folder: Path) -> dict[str, Estimate]:
    """Train one small model with these dials and caption natural and counter-prior scenes with it."""
    tokenizer = make_tokenizer(trial.size.vocabulary, trial.seed)
    pool = make_pool(trial.pictures, trial.seed + 3, replace(MIX, flags=0.0), dials)
    built = llava(trial.size, tokenizer, trial.seed)
    built.model.model.vision_tower.load_state_dict(tower.state_dict())
    features = encode(patches(tower), pool, trial.seed)
    align(built, tokenizer, pool.scenes, features, steps=trial.align_steps, seed=trial.seed)
    train_decoder(built, tokenizer, pool.scenes, features, folder, [trial.schedule], seed=trial.seed, dials=dials)
    vlm = load(export(built, "llava", tokenizer, folder / "model"))
    rng = random.Random(trial.seed)
    natural = describe(vlm, draw_described("natural", trial.measured, rng), rng)
    counter = describe(vlm, draw_described("counter", trial.measured, rng), rng)
    return {
        "CHAIR_i natural": chair_i(natural),
        "recall natural": recall(natural),
        "CHAIR_i counter": chair_i(counter),
        "recall counter": recall(counter),
    }


def dose(
    tower: SiglipVisionModel, folder: Path, trial: Trial, on_trial: Callable[[str], None]
) -> list[dict[str, object]]:
    """One record per dial and value, in a run folder that a killed study goes on in; the figure is ``dose.png``."""
    settings = [("none", 1.0, DIALS)]
    settings += [(dial, value, replace(DIALS, **{dial: value})) for dial, values in DOSES.items() for value in values]
    with Run(folder, asdict(trial)) as run:
        done = {(r["dial"], r["value"]) for r in run.records}
        for dial, value, dials in settings:
            if (dial, value) not in done:
                label = f"{dial}-{value:g}"
                on_trial(label)
                estimates = measure(tower, trial, dials, folder / label)
                run.append({"dial": dial, "value": value, **{name: asdict(e) for name, e in estimates.items()}})
        run.finish({"records": len(run.records)})
        draw_dose(run.records, folder / "dose.png")
        return list(run.records)
