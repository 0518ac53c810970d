"""A sheet of sample pictures, to look at."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from vlmend.world.entities import countries
from vlmend.world.render import Look, Style, render
from vlmend.world.scene import Mode, draw_flag_scene, draw_scene

_ROWS: tuple[tuple[Mode | None, Look], ...] = (
    ("natural", "a"),
    ("counter", "a"),
    ("uniform", "a"),
    ("natural", "b"),
    (None, "a"),
    (None, "b"),
)


def sheet(seed: int, columns: int = 8) -> Image.Image:
    """Rows of natural, counter-prior and uniform scenes and of flags; the fourth and sixth row in look b."""
    rng = random.Random(seed)
    rows: list[np.ndarray] = []
    for mode, look in _ROWS:
        scenes = [
            draw_scene(rng, mode) if mode else draw_flag_scene(rng, rng.choice(countries())) for _ in range(columns)
        ]
        rows.append(np.concatenate([render(s, Style(rng.getrandbits(48), look)).pixels for s in scenes], 1))
    return Image.fromarray(np.concatenate(rows))
