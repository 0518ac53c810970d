"""Where to edit by attribution: the choice follows from the scores that are told with it."""

from __future__ import annotations

import pytest

from vlmend import Example, attribute
from vlmend.attribution.localize import deciding_layers, deciding_places, seeing_layer
from vlmend.errors import AttributionError

QUESTION = "what colour is the cup ?"


def test_layers_that_write_most(vlm, picture):
    examples = [Example(QUESTION, picture(1)), Example(QUESTION, picture(2))]
    chosen = deciding_layers(vlm, examples, 2)
    shares = []
    for one in examples:
        scores = attribute(vlm, one, "decomposition").total("module").scores.abs()
        shares.append(scores / scores.sum())
    mean = sum(shares) / 2
    assert list(chosen.scores) == pytest.approx(mean.tolist(), abs=1e-5)
    assert set(chosen.layers) == set(mean.topk(2).indices.tolist())
    assert "of the answer's logit" in chosen.why
    assert chosen.to_json()["by"] == "decomposition"


def test_the_last_layer_behind_which_the_picture_acts(vlm, picture):
    chosen = seeing_layer(vlm, [Example(QUESTION, picture(1))])
    (layer,) = chosen.layers
    if not chosen.scores:
        assert "no effect" in chosen.why
        return
    assert chosen.scores[-1] == 0.0, "behind the last layer nobody looks"
    later = chosen.scores[layer + 1 :]
    assert chosen.scores[layer] >= 0.5 > max(later, default=0.0) or chosen.scores[layer] == max(chosen.scores) < 0.5
    assert str(layer) in chosen.why


def test_the_fewest_places_that_hold_half(llava, picture):
    example = Example(QUESTION, picture(1))
    spot = deciding_places(llava, example)
    scores = attribute(llava, example, "integrated-gradients", steps=12).over_places.clamp(min=0)
    held = float(scores[list(spot.places)].sum() / scores.sum())
    least = float(scores[list(spot.places)].min() / scores.sum())
    assert held >= 0.5 - 1e-5
    assert held - least < 0.5, "one fewer would not do"
    assert len(spot.boxes) == len(spot.places)
    assert len(deciding_places(llava, example, 1.0).places) == int((scores > 0).sum())


def test_what_cannot_be_chosen(tiny, llava, picture):
    with pytest.raises(AttributionError, match="no examples"):
        deciding_layers(llava, [], 1)
    with pytest.raises(AttributionError, match="at least one layer"):
        deciding_layers(llava, [Example(QUESTION, picture(1))], 0)
    with pytest.raises(AttributionError, match="has no picture"):
        seeing_layer(llava, [Example(QUESTION)])
    with pytest.raises(AttributionError, match="at most 1"):
        deciding_places(llava, Example(QUESTION, picture(1)), 0.0)
    with pytest.raises(AttributionError, match="no places in the picture"):
        deciding_places(tiny("blip2"), Example(QUESTION, picture(1)))
