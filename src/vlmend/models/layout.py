"""Which part of a picture each visual token shows.

What a processor does to a picture (resize, crop, pad, cut into tiles or patches) is not looked up but measured:
pictures whose colours say where each pixel lies go through it, and come out as a map from the encoder's pixels to the
original's. What is left is how encoder patches become tokens, for which there are four descriptions: `_packed`,
`_queried`, `_patched` and `_tiled`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from vlmend.errors import PartsError
from vlmend.models.outputs import Question
from vlmend.models.pictures import listed, open_picture
from vlmend.models.prepared import Asked
from vlmend.models.vlm import VLM

__all__ = ["Box", "Layout", "Place", "layout"]

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the original picture (after its camera's rotation), as in Pillow."""

_EDGE = 2  # pixels at a tile's border that a resize filter bends
_LEVELS = 255
_FAINT = 0.2  # where less of a picture is left than this, after it was mixed with padding, its colours say nothing


@dataclass(frozen=True)
class Place:
    """Where something lies.

    Attributes:
        picture: index of the picture within its example.
        box: the part of it; ``None`` for what shows nothing of it (the end of a row of tiles, padding).
    """

    picture: int
    box: Box | None


@dataclass(frozen=True)
class Layout:
    """The places of an example's visual tokens, in the order of the tokens.

    Attributes:
        of: "tokens", or "patches" where a token (a Q-Former's query) has no place in the picture: then the places are
            those of the vision encoder's patches, in its order, without class tokens.
        places: one for each.
    """

    of: Literal["tokens", "patches"]
    places: tuple[Place, ...]

    def touching(self, picture: int, box: Box) -> tuple[int, ...]:
        """Indices of the places in a picture that share some area with a box."""
        return tuple(
            index
            for index, place in enumerate(self.places)
            if place.picture == picture and place.box is not None and _overlap(place.box, box)
        )


def layout(vlm: VLM, example: Asked) -> Layout:
    """The places of an example's visual tokens.

    Args:
        vlm: a loaded model.
        example: a question with its pictures; only their sizes matter.

    Raises:
        PromptError: the example cannot be turned into this model's input.
        PartsError: this model makes visual tokens in a way that is not known here, or makes none.
    """
    vlm.parts.need_visual_tokens()
    sizes = [open_picture(image).size for image in listed(example.image)]
    if not sizes:
        return Layout("tokens", ())
    seen = _measure(vlm, example.question, sizes)
    for describe in (_packed, _queried, _patched, _tiled):
        found = describe(vlm, seen)
        if found is not None and (found.of == "patches" or len(found.places) == seen.tokens):
            return Layout(found.of, tuple(_within(place, sizes[place.picture]) for place in found.places))
    raise PartsError(f"the places of visual tokens are not known for {type(vlm.model).__name__}")


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the processor made of the measuring pictures.

    Attributes:
        tokens: how many visual tokens there are.
        xy: where every pixel of every piece (tile or patch) lies, in pixels of its picture: [piece, 2, height, width];
            NaN where a piece shows nothing.
        pictures: the picture of every piece; -1 for a piece that is only there to fill up a tensor.
        flat: whether the pieces are patches already, in a list.
        inputs: the processor's other tensors.
    """

    tokens: int
    xy: Tensor
    pictures: list[int]
    flat: bool
    inputs: dict[str, Tensor]


def _measure(vlm: VLM, question: str, sizes: Sequence[tuple[int, int]]) -> _Seen:
    def filled(level: Callable[[int], int]) -> tuple[Image.Image, ...]:
        return tuple(Image.new("RGB", size, (level(index),) * 3) for index, size in enumerate(sizes))

    count = len(sizes)
    kinds = [
        filled(lambda _: 0),
        filled(lambda _: _LEVELS),
        filled(lambda index: _LEVELS * (index + 1) // (count + 1)),
        tuple(_coordinates(size) for size in sizes),
    ]
    prepared = vlm.prepare([Question(question, pictures) for pictures in kinds])
    inputs = [prepared.pictures[row.picture or ""] for row in prepared.rows]
    patch = _sides(vlm.model.config)[0]
    black, white, which, where = (_pieces(one["pixel_values"], patch) for one in inputs)
    # Normalisation is undone by what it makes of black and of white; what is the same for both shows no picture.
    reach = white - black
    reach[reach.abs() < _FAINT * reach.abs().max()] = torch.nan
    index = ((which - black) / reach).flatten(1).nanmean(1) * (count + 1) - 1
    pictures = [-1 if value.isnan() else round(float(value)) for value in index]
    xy = ((where - black) / reach)[:, :2] * _LEVELS
    for number, picture in enumerate(pictures):
        if picture >= 0:
            xy[number] *= torch.tensor(sizes[picture]).reshape(2, 1, 1) / _LEVELS
    tokens = int(prepared.rows[0].visual_T.sum())
    return _Seen(tokens, xy, pictures, inputs[0]["pixel_values"].dim() == 2, inputs[0])


def _coordinates(size: tuple[int, int]) -> Image.Image:
    """A picture whose red (and blue) says how far to the right a pixel is, and whose green how far down."""
    ramps = [
        Image.frombytes("L", (length, 1), bytes(int(_LEVELS * (i + 0.5) / length + 0.5) for i in range(length)))
        for length in size
    ]
    right = ramps[0].resize(size, Image.Resampling.NEAREST)
    down = ramps[1].transpose(Image.Transpose.ROTATE_270).resize(size, Image.Resampling.NEAREST)
    return Image.merge("RGB", (right, down, right))


def _pieces(pixels: Tensor, patch: int) -> Tensor:
    """Tiles or patches in a list: [piece, channel, height, width]; of a patch through time, its first moment."""
    if pixels.dim() == 2:
        return pixels.reshape(len(pixels), 3, -1, patch, patch)[:, :, 0].clone()
    return pixels.reshape(-1, *pixels.shape[-3:]).clone()


def _tiled(vlm: VLM, seen: _Seen) -> Layout | None:
    """Every tile is a raster of equal cells, tile after tile (Llava, PaliGemma, Idefics, InternVL, Gemma 3)."""
    tiles = [tile for tile, picture in enumerate(seen.pictures) if picture >= 0]
    height, width = seen.xy.shape[-2:]
    cell = round((height * width * len(tiles) / seen.tokens) ** 0.5)
    if height % cell or width % cell:
        return None
    places = [Place(seen.pictures[tile], box) for tile in tiles for box in _raster(seen.xy[tile], cell)]
    return Layout("tokens", tuple(places))


def _patched(vlm: VLM, seen: _Seen) -> Layout | None:
    """Patches come as a list in which those that become one token stand together (Qwen-VL, GLM-4V)."""
    if not seen.flat or len(seen.xy) % seen.tokens:
        return None
    merged = len(seen.xy) // seen.tokens
    steps = [_step(seen, picture) for picture in range(max(seen.pictures) + 1)]
    places: list[Place] = []
    for start in range(0, len(seen.xy), merged):
        picture = seen.pictures[start]
        centres = seen.xy[start : start + merged].mean((-2, -1))
        half = steps[picture] * seen.xy.shape[-1] / 2
        low, high = centres.amin(0) - half, centres.amax(0) + half
        if float((high - low).prod()) > 1.5 * merged * float((2 * half).prod()):  # they do not stand together
            return None
        places.append(Place(picture, _box(torch.cat([low, high]))))
    return Layout("tokens", tuple(places))


def _step(seen: _Seen, picture: int) -> Tensor:
    """How many of a picture's pixels one encoder pixel is, across and down: [2]; from all its patches together."""
    xy = seen.xy[[piece for piece, owner in enumerate(seen.pictures) if owner == picture]]
    size = xy.shape[-1]
    along = torch.arange(size) - (size - 1) / 2
    return torch.stack([(xy[:, 0] * along).mean(), (xy[:, 1] * along[:, None]).mean()]) / (along**2).mean()


def _queried(vlm: VLM, seen: _Seen) -> Layout | None:
    """A Q-Former's queries look at all of a picture: the encoder's patches are the places."""
    config: Any = vlm.model.config
    if getattr(config, "qformer_config", None) is None:
        return None
    patch, *_ = _sides(config)
    places = [
        Place(picture, box)
        for tile, picture in zip(seen.xy, seen.pictures, strict=True)
        if picture >= 0
        for box in _raster(tile, patch)
    ]
    return Layout("patches", tuple(places))


def _packed(vlm: VLM, seen: _Seen) -> Layout | None:
    """The model itself packs the features of tiles, crops what was padded and ends rows (LlavaNext, OneVision).

    Its own function is given the boxes of the patches in place of their features.
    """
    base: Any = vlm.model.base_model
    if not hasattr(base, "pack_image_features") or "image_sizes" not in seen.inputs:
        return None
    patch, *_ = _sides(vlm.model.config)
    nothing = torch.full((4,), torch.nan)
    features: list[Tensor] = []
    for picture in range(max(seen.pictures) + 1):
        tiles = [tile for tile, owner in zip(seen.xy, seen.pictures, strict=True) if owner == picture]
        boxes = [[nothing if box is None else torch.tensor(box) for box in _raster(tile, patch)] for tile in tiles]
        features.append(torch.stack([torch.stack(tile) for tile in boxes]))
    settings = {
        name: getattr(vlm.model.config, name)
        for name in inspect.signature(base.pack_image_features).parameters
        if hasattr(vlm.model.config, name)
    }
    packed = base.pack_image_features(features, seen.inputs["image_sizes"], image_newline=nothing, **settings)[0]
    places = [Place(picture, _box(box)) for picture, boxes in enumerate(packed) for box in boxes]
    return Layout("tokens", tuple(places))


def _box(values: Tensor) -> Box | None:
    left, top, right, bottom = values.tolist()
    return (left, top, right, bottom) if left == left else None


def _within(place: Place, size: tuple[int, int]) -> Place:
    """A place without what lies outside of its picture."""
    if place.box is None:
        return place
    left, top, right, bottom = place.box
    inside = (max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1])))
    return Place(place.picture, inside if inside[0] < inside[2] and inside[1] < inside[3] else None)


def _raster(xy: Tensor, cell: int) -> list[Box | None]:
    """Boxes of a tile's square cells, row by row; ``None`` for a cell that is padding."""
    shown = ~xy.isnan().any(0)
    if not shown.any():
        return [None] * (xy.shape[-2] // cell * (xy.shape[-1] // cell))
    across, down = _edges(xy[0].nanmean(0), cell), _edges(xy[1].nanmean(1), cell)
    return [
        (left, top, right, bottom)
        if shown[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell].any()
        else None
        for row, (top, bottom) in enumerate(pairwise(down))
        for column, (left, right) in enumerate(pairwise(across))
    ]


def _edges(centres: Tensor, cell: int) -> list[float]:
    """Where the cells of one axis begin and end, from where its pixels lie: a line fitted through them.

    Padding is left out; a cell that is padding in part ends where the picture does.
    """
    places = torch.arange(len(centres))[~centres.isnan()]
    inner = places[_EDGE:-_EDGE] if len(places) > 4 * _EDGE else places
    x, y = inner.double(), centres[inner].double()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum().clamp(min=1e-9)
    start = y.mean() - slope * x.mean()
    bounds = torch.arange(0, len(centres) + 1, cell).clamp(int(places[0]), int(places[-1]) + 1)
    return (start + slope * (bounds - 0.5)).tolist()


def _sides(config: Any) -> tuple[int, ...]:
    """The side of the encoder's patches, in its pixels."""
    patch: Any = config.vision_config.patch_size
    return tuple(patch) if isinstance(patch, list | tuple) else (patch,)


def _overlap(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])
