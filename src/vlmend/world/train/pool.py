"""Rendered training pictures with their dense labels, made once and kept in memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from vlmend.world.catalog import catalog
from vlmend.world.entities import countries, random_flag
from vlmend.world.render import SIZE, Look, Picture, Style, render
from vlmend.world.scene import DIALS, Dials, Scene, draw_flag_scene, draw_scene

PATCH = 16
SIDE = SIZE // PATCH  # patches a side
IGNORE = -1


def label_sizes() -> dict[str, int]:
    """Every dense label and how many classes it has."""
    world = catalog()
    colours, layouts, emblems = len(world.colours), len(world.layouts), len(world.emblems)
    return {
        "kind": len(world.kinds) + 1,
        "colour": colours,
        "pattern": len(world.patterns),
        "count": 4,
        "place": len(world.places) + 1,
        "row": SIDE,
        "column": SIDE,
        "layout": layouts,
        "first": colours,
        "second": colours,
        "third": colours + 1,
        "emblem": emblems,
        "emblem_colour": colours,
    }


def dense_labels(scene: Scene, picture: Picture) -> np.ndarray:
    """What each patch shows, int8 [SIDE * SIDE, labels] ordered as ``label_sizes``; IGNORE where nothing applies."""
    world, sizes = catalog(), label_sizes()
    out = np.full((SIDE, SIDE, len(sizes)), IGNORE, dtype=np.int8)
    column = {name: i for i, name in enumerate(sizes)}
    out[..., column["kind"]] = len(world.kinds)
    out[..., column["place"]] = len(world.places) if scene.country else list(world.places).index(scene.place)
    out[..., column["row"]] = np.arange(SIDE)[:, None]
    out[..., column["column"]] = np.arange(SIDE)[None, :]
    patches = picture.mask.reshape(SIDE, PATCH, SIDE, PATCH).swapaxes(1, 2).reshape(SIDE, SIDE, -1)
    colours = list(world.colours)
    for index, thing in enumerate(scene.things):
        there = (patches == index + 1).mean(-1) > 0.1
        out[there, column["kind"]] = world.kinds.index(thing.kind)
        out[there, column["colour"]] = colours.index(thing.colour)
        out[there, column["pattern"]] = world.patterns.index(thing.pattern)
        out[there, column["count"]] = scene.counts[thing.kind] - 1
    if scene.country:
        flag, there = scene.country.flag, (patches == -1).mean(-1) > 0.4
        painted = [*map(colours.index, flag.colours), len(colours)]  # the last class of "third": there is none
        out[there, column["layout"]] = list(world.layouts).index(flag.layout)
        for name, colour in zip(("first", "second", "third"), painted, strict=False):
            out[there, column[name]] = colour
        out[there, column["emblem"]] = list(world.emblems).index(flag.emblem)
        out[there, column["emblem_colour"]] = colours.index(flag.emblem_colour)
    return out.reshape(SIDE * SIDE, -1)


@dataclass(frozen=True)
class Pool:
    """N rendered scenes. ``pixels`` uint8 [N, SIZE, SIZE, 3]; ``labels`` int8 [N, patches, labels];
    ``noise`` float32 [N], the standard deviation of what is added to pixels in [-1, 1]."""

    scenes: tuple[Scene, ...]
    pixels: np.ndarray
    labels: np.ndarray
    noise: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


@dataclass(frozen=True)
class Mix:
    """Shares in a pool: of flags, of invented ones among them, of uniform scenes, of look b, of noisy pictures."""

    flags: float = 0.3
    invented: float = 0.25
    uniform: float = 0.35
    look_b: float = 0.15
    noisy: float = 0.2


MIX = Mix()


def _draw(rng: random.Random, mix: Mix, dials: Dials) -> Scene:
    if rng.random() >= mix.flags:
        return draw_scene(rng, "uniform" if rng.random() < mix.uniform else "natural", dials)
    seen = [c for c in countries() if c.seen]
    country = rng.choice(seen)
    if rng.random() < mix.invented:
        hidden = {c.flag for c in countries() if not c.seen}
        while (flag := random_flag(rng)) in hidden:
            pass
        country = replace(country, name="", flag=flag)
    return draw_flag_scene(rng, country)


CHUNK = 500  # scenes drawn from one seed, and rendered by one worker
Job = tuple[int, int, Mix, Dials]


def _jobs(count: int, seed: int, mix: Mix, dials: Dials) -> list[Job]:
    return [(min(CHUNK, count - i), seed * 1_000_003 + i, mix, dials) for i in range(0, count, CHUNK)]


def _scenes(job: Job, rng: random.Random) -> list[Scene]:
    count, _, mix, dials = job
    return [_draw(rng, mix, dials) for _ in range(count)]


def draw_scenes(count: int, seed: int, mix: Mix, dials: Dials) -> list[Scene]:
    """The scenes of ``make_pool`` with the same arguments, without their pictures."""
    return [s for job in _jobs(count, seed, mix, dials) for s in _scenes(job, random.Random(job[1]))]


def _chunk(job: Job) -> tuple[list[Scene], np.ndarray, np.ndarray, np.ndarray]:
    rng, mix = random.Random(job[1]), job[2]
    scenes = _scenes(job, rng)
    looks: list[Look] = ["b" if rng.random() < mix.look_b else "a" for _ in scenes]
    pictures = [render(s, Style(rng.getrandbits(48), look)) for s, look in zip(scenes, looks, strict=True)]
    labels = np.stack([dense_labels(s, p) for s, p in zip(scenes, pictures, strict=True)])
    noise = np.array([rng.uniform(0.2, 2.0) if rng.random() < mix.noisy else 0.0 for _ in scenes], dtype=np.float32)
    return scenes, np.stack([p.pixels for p in pictures]), labels, noise


def make_pool(count: int, seed: int, mix: Mix = MIX, dials: Dials = DIALS, workers: int = 2) -> Pool:
    """Draw and render ``count`` scenes. Deterministic in its arguments, whatever the number of workers."""
    with ProcessPoolExecutor(workers) as executor:
        chunks = list(executor.map(_chunk, _jobs(count, seed, mix, dials)))
    scenes = [s for chunk in chunks for s in chunk[0]]
    pixels, labels, noise = map(np.concatenate, list(zip(*chunks, strict=True))[1:])
    return Pool(tuple(scenes), pixels, labels, noise)


def pixel_values(pool: Pool, rows: Sequence[int] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The processor's pixels for these rows, float32 [len(rows), 3, SIZE, SIZE] in [-1, 1], noise added."""
    values = pool.pixels[rows].astype(np.float32) / 127.5 - 1
    for i, sigma in enumerate(pool.noise[rows]):
        if sigma:
            values[i] += rng.normal(0, sigma, values[i].shape).astype(np.float32)
    return values.transpose(0, 3, 1, 2)
