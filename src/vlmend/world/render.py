"""Draw a scene: 128 x 128 pixels, with the mask of every thing. Two looks share one description.

Look "a" paints solid objects with a dark outline in a lit room; look "b" draws them as tinted sketches on paper.
Rendering the same scene with another style seed gives the same content with new jitter, light and noise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from vlmend.world.catalog import Primitive, catalog
from vlmend.world.entities import Flag
from vlmend.world.scene import GRID, Scene, Thing

SIZE = 128  # pixels a side
CELL = SIZE // GRID
Look = Literal["a", "b"]
Pixels = np.ndarray  # uint8 [SIZE, SIZE, 3]

_PAPER = np.array([238.0, 234.0, 222.0], dtype=np.float32)
_OUTLINE = np.array([26.0, 26.0, 30.0], dtype=np.float32)
_FLAG_WALL, _FLAG_FLOOR = (164, 186, 208), (150, 146, 128)


@dataclass(frozen=True)
class Style:
    """How a scene is drawn: the look, the seed of jitter, light and sensor noise."""

    seed: int
    look: Look = "a"


@dataclass(frozen=True)
class Picture:
    """A rendered scene. ``mask`` [SIZE, SIZE] holds 1 + the index of the thing at each pixel, 0 for background and
    -1 for the flag."""

    pixels: Pixels
    mask: np.ndarray

    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)

    def box(self, thing: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom (exclusive) of a thing's visible pixels."""
        rows, cols = np.nonzero(self.mask == thing + 1)
        return int(cols.min()), int(rows.min()), int(cols.max()) + 1, int(rows.max()) + 1


def _paint(draw: ImageDraw.ImageDraw, primitive: Primitive, width: float, height: float, ink: int) -> None:
    name, *numbers = primitive
    ink = 0 if name.startswith("-") else ink
    points = [(x * width / 100, y * height / 100) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    kind = name.removeprefix("-")
    if kind == "poly":
        draw.polygon(points, fill=ink)
    elif kind == "oval":
        draw.ellipse(points, fill=ink)
    else:
        draw.rectangle(points, fill=ink)


def _raster(shape: tuple[Primitive, ...], width: int, height: int) -> np.ndarray:
    """Coverage in 0..1, float32 [height, width], four times supersampled."""
    big = Image.new("L", (width * 4, height * 4))
    draw = ImageDraw.Draw(big)
    for primitive in shape:
        _paint(draw, primitive, width * 4, height * 4, 255)
    return np.asarray(big.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255


@lru_cache(maxsize=4096)
def _silhouette(kind: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A kind's coverage and its outline, float32 [height, width], with a one-pixel margin inside."""
    cover = np.pad(_raster(catalog().shapes[kind], width - 2, height - 2), 1)
    solid = cover > 0.5
    grown = solid.copy()
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        grown |= np.roll(solid, shift, axis)
    return np.maximum(cover, 0), (grown & ~solid).astype(np.float32)


@lru_cache(maxsize=64)
def _pattern(name: str, dx: int, dy: int) -> np.ndarray:
    """Where the pattern's second ink goes, float32 [CELL, CELL]."""
    y, x = np.mgrid[0:CELL, 0:CELL]
    x, y = x + dx, y + dy
    inks = {
        "plain": np.zeros_like(x, dtype=bool),
        "striped": (y % 6) < 3,
        "dotted": (((x % 6) - 2.5) ** 2 + ((y % 6) - 2.5) ** 2) < 3.2,
        "checked": ((x // 4) + (y // 4)) % 2 == 0,
    }
    return inks[name].astype(np.float32)


def _inks(colour: str) -> tuple[np.ndarray, np.ndarray]:
    """A colour and the contrasting ink of its patterns."""
    base = np.array(catalog().colours[colour], dtype=np.float32)
    contrast = _PAPER if colour in ("black", "blue", "purple") else _OUTLINE
    return base, base * 0.25 + contrast * 0.75


def _place_thing(
    canvas: np.ndarray, mask: np.ndarray, thing: Thing, index: int, rng: random.Random, look: Look
) -> None:
    width, height = rng.randint(25, 31), rng.randint(25, 31)
    cover, outline = _silhouette(thing.kind, width, height)
    x = thing.col * CELL + rng.randint(0, CELL - width)
    y = thing.row * CELL + rng.randint(0, CELL - height)
    base, second = _inks(thing.colour)
    if look == "b":
        base, second = base * 0.6 + _PAPER * 0.4, base * 0.8
    inked = _pattern(thing.pattern, rng.randint(0, 5), rng.randint(0, 5))[:height, :width, None]
    body = base * (1 - inked) + second * inked
    edge = np.array(catalog().colours[thing.colour], dtype=np.float32) * 0.75 if look == "b" else _OUTLINE
    spot = canvas[y : y + height, x : x + width]
    spot += (body - spot) * cover[..., None]
    spot += (edge - spot) * outline[..., None]
    mask[y : y + height, x : x + width][(cover > 0.5) | (outline > 0)] = index + 1


@lru_cache(maxsize=1024)
def _cloth(flag: Flag) -> np.ndarray:
    """The flat flag, float32 [56, 84, 3]."""
    world = catalog()
    height, width = 56, 84
    inks = [np.array(world.colours[c], dtype=np.float32) for c in flag.colours]
    cloth = np.broadcast_to(inks[0], (height, width, 3)).copy()
    for index, *primitive in world.layouts[flag.layout].painted:
        cover = _raster((tuple(primitive),), width, height)[..., None]
        cloth += (inks[int(index) - 1] - cloth) * cover
    emblem = _raster(world.emblems[flag.emblem], 30, 30)[..., None]
    spot = cloth[13:43, 27:57]
    spot += (np.array(world.colours[flag.emblem_colour], dtype=np.float32) - spot) * emblem
    return cloth


def _hoist(canvas: np.ndarray, mask: np.ndarray, flag: Flag, rng: random.Random, look: Look) -> None:
    """Scale, wave and hang the flag on a pole; the cloth keeps to the upper three quarters of the picture."""
    width, height = rng.randint(70, 88), rng.randint(46, 58)
    cloth = np.asarray(
        Image.fromarray(_cloth(flag).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR),
        dtype=np.float32,
    )
    if look == "b":
        cloth = cloth * 0.65 + _PAPER * 0.35
    left, top = rng.randint(12, SIZE - width - 8), rng.randint(10, 28)
    phase, depth, shear = rng.uniform(0, 6.3), rng.uniform(1, 3.5), rng.uniform(-0.06, 0.06)
    for column in range(width):
        drop = top + round(float(depth * np.sin(phase + column / 13) + shear * column))
        shade = 1 + 0.08 * np.cos(phase + column / 13)
        canvas[drop : drop + height, left + column] = cloth[:, column] * shade
        mask[drop : drop + height, left + column] = -1
    canvas[top - 4 : SIZE - 34, left - 3 : left] = (92, 70, 50)


def render(scene: Scene, style: Style) -> Picture:
    """Draw the scene. Deterministic in scene and style."""
    rng = random.Random(f"{style.seed}/{style.look}")
    noise = np.random.default_rng(rng.getrandbits(64))
    place = None if scene.country else catalog().places[scene.place]
    wall, floor = (place.wall, place.floor) if place else (_FLAG_WALL, _FLAG_FLOOR)
    horizon = rng.randint(60, 74) if place else SIZE - 32
    canvas = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    canvas[:horizon], canvas[horizon:] = wall, floor
    if style.look == "b":
        canvas = canvas * 0.35 + _PAPER * 0.65
        canvas[horizon - 1 : horizon] = (120, 116, 108)
        canvas[::8] *= 0.94
    mask = np.zeros((SIZE, SIZE), dtype=np.int16)
    if scene.country:
        _hoist(canvas, mask, scene.country.flag, rng, style.look)
    for index, thing in enumerate(scene.things):
        _place_thing(canvas, mask, thing, index, rng, style.look)
    if style.look == "a":
        slope = rng.uniform(-0.1, 0.1)
        canvas *= rng.uniform(0.88, 1.1) * (1 + slope * np.linspace(-1, 1, SIZE, dtype=np.float32))[None, :, None]
    canvas += noise.normal(0, 5 if style.look == "a" else 3, canvas.shape).astype(np.float32)
    return Picture(np.clip(canvas, 0, 255).astype(np.uint8), mask)
