"""Places are checked on the model itself: with the encoder's attention silenced, a visual token's features change
exactly where the pixels of its box do."""

from __future__ import annotations

import pytest
import torch
from PIL import ImageDraw

from conftest import FAMILIES
from vlmend import VLM, Example
from vlmend.models.layout import layout

MARGIN = 4.0  # what a resize filter reaches beyond a box: so many pixels of the original at least,
SHARE = 0.35  # or so much of the box


@pytest.fixture(scope="module")
def local(tiny_folder):
    """`local(family)`: a tiny model whose vision encoder lets no patch look at another."""
    import vlmend

    made: dict[str, VLM] = {}

    def load(family: str) -> VLM:
        if family not in made:
            vlm = vlmend.load(tiny_folder(family))
            for name, parameter in vlm.parts.vision.named_parameters():
                *owners, last, _ = name.split(".")
                if "att" in "".join(owners) and last in ("out_proj", "proj", "projection_layer", "projection"):
                    parameter.zero_()
            made[family] = vlm
        return made[family]

    return load


def features(vlm: VLM, example: Example) -> torch.Tensor:
    """Of every visual token: [token, width]."""
    with torch.no_grad():
        prepared = vlm.prepare([example])
        row = prepared.rows[0]
        pooled = vlm._feeder.features([row.picture], prepared)[0].pooled
    rows = [piece.flatten(0, -2) for piece in (pooled if not isinstance(pooled, torch.Tensor) else [pooled])]
    return torch.cat(rows)


def overlap(box, other, margin):
    return max(box[0], other[0] - margin) < min(box[2], other[2] + margin) and max(box[1], other[1] - margin) < min(
        box[3], other[3] + margin
    )


def margin(box):
    return max(MARGIN, SHARE * max(box[2] - box[0], box[3] - box[1]))


@pytest.mark.parametrize("size", [(64, 64), (90, 50), (40, 100), (333, 128)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_change_where_their_boxes_do(local, picture, family, size):
    vlm = local(family)
    before = picture(1, size)
    example = Example("what ?", before)
    places = layout(vlm, example)
    if places.of == "patches":
        return check_patches(vlm, example, places)
    original = features(vlm, example)
    assert len(places.places) == len(original)
    width, height = size
    apart = 0
    for left, top in [(0.05, 0.05), (0.6, 0.3), (0.3, 0.75)]:
        region = (int(left * width), int(top * height), int((left + 0.2) * width), int((top + 0.2) * height))
        after = before.copy()
        ImageDraw.Draw(after).rectangle((region[0], region[1], region[2] - 1, region[3] - 1), "white")
        changed = (features(vlm, Example("what ?", after)) - original).abs().amax(-1) > 1e-4
        boxes = [place.box for place in places.places]
        surely = [box is not None and overlap(box, region, -1.0) for box in boxes]
        perhaps = [box is not None and overlap(box, region, margin(box)) for box in boxes]
        assert any(surely)
        apart += not all(perhaps)
        for index, there in enumerate(changed.tolist()):
            assert there or not surely[index], (index, boxes[index], region)
            assert perhaps[index] or not there, (index, boxes[index], region)
    assert apart


def check_patches(vlm, example, places):
    """The encoder's patches: [CLS] is left out."""
    pixels = next(iter(vlm.prepare([example]).pictures.values()))["pixel_values"]
    patch = vlm.model.config.vision_config.patch_size
    assert len(places.places) == pixels[0, 0].numel() // patch**2
    first, last = places.places[0].box, places.places[-1].box
    assert first[:2] == pytest.approx((0, 0), abs=1.5)
    assert last[2:] == pytest.approx(example.image.size, abs=1.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_picture_has_its_own_places(local, picture, family):
    vlm = local(family)
    if not vlm._preparer.traits.several:
        pytest.skip("takes one picture")
    one, two, three = picture(1), picture(2, (80, 40)), picture(3, (80, 40))
    example, other = (Example("what in <image> and <image> ?", pictures) for pictures in ((one, two), (one, three)))
    places = layout(vlm, example).places
    changed = (features(vlm, other) - features(vlm, example)).abs().amax(-1) > 1e-4
    for place, there in zip(places, changed.tolist(), strict=True):
        assert place.picture == 1 or not there
        assert there or place.picture == 0 or place.box is None  # padding beside a picture mixes with it
    for index, image in enumerate((one, two)):
        boxes = torch.tensor([place.box for place in places if place.picture == index and place.box])
        assert boxes[:, :2].amin(0).tolist() == pytest.approx((0, 0), abs=1.5)
        assert boxes[:, 2:].amax(0).tolist() == pytest.approx(image.size, abs=1.5)


def test_cropped_pictures(tiny_folder, picture):
    """A processor that crops the middle leaves the sides without tokens."""
    import transformers

    import vlmend

    vlm = vlmend.load(tiny_folder("llava"))
    vlm.processor.image_processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    boxes = [place.box for place in layout(vlm, Example("what ?", picture(1, (400, 200)))).places]
    expected = [(100 + 50 * x, 50 * y, 150 + 50 * x, 50 + 50 * y) for y in range(4) for x in range(4)]
    assert [pytest.approx(box, abs=1.5) for box in expected] == boxes


def test_padded_pictures(tiny_folder, picture):
    """Patches of padding have no place, those that are padding in part end with the picture."""
    import transformers

    import vlmend

    vlm = vlmend.load(tiny_folder("llava"))
    inner = transformers.CLIPImageProcessorPil(do_resize=False, crop_size={"height": 32, "width": 32})
    vlm.processor.image_processor = inner
    boxes = [place.box for place in layout(vlm, Example("what ?", picture(1, (32, 12)))).places]
    rows = [[(8 * x, top, 8 * x + 8, bottom) for x in range(4)] for top, bottom in ((0, 6), (6, 12))]
    shown = [pytest.approx(box, abs=0.2) for row in rows for box in row]
    assert [None] * 4 + shown + [None] * 4 == boxes


def test_places_touching_a_box(local, picture):
    places = layout(local("llava"), Example("what ?", picture(1, (64, 64))))
    assert places.touching(0, (0, 0, 15, 15)) == (0,)
    assert places.touching(0, (17, 1, 47, 2)) == (1, 2)
    assert places.touching(1, (0, 0, 64, 64)) == ()


def test_no_picture_no_places(local):
    assert layout(local("llava"), Example("what ?")).places == ()


def test_queries_have_no_place(local, picture):
    assert layout(local("blip2"), Example("what ?", picture(1))).of == "patches"
    assert layout(local("qwen2_vl"), Example("what ?", picture(1))).of == "tokens"
