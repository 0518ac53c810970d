"""Layers of a vision encoder that nobody reads are found and not run; whoever watches the encoder sees them all."""

from __future__ import annotations

import pytest
import torch

from vlmend import VLM, Example
from vlmend.models.heap import keep_freed_memory
from vlmend.models.trace import called_through, capture
from vlmend.models.unread import unread


@pytest.fixture
def features(picture):
    """What enters the token stream, of a picture not seen before."""

    def of(vlm: VLM) -> torch.Tensor:
        (found,) = vlm.features(vlm.prepare([Example("what is this ?", picture(3), "red")]))
        assert found is not None
        return found

    return of


def layers_of(vlm: VLM) -> list[torch.nn.Module]:
    return list(max((m for m in vlm.parts.vision.modules() if isinstance(m, torch.nn.ModuleList)), key=len))


def test_every_family_gets_the_same_features(vlm: VLM, features, monkeypatch):
    mine = features(vlm)
    monkeypatch.setattr(vlm._feeder, "_unread", ())
    assert torch.equal(mine, features(vlm))


@pytest.mark.parametrize(("level", "count"), [(-1, 0), (-2, 1)])
def test_layers_above_the_one_that_features_come_from_are_not_run(llava: VLM, features, monkeypatch, level, count):
    layers = layers_of(llava)
    monkeypatch.setattr(llava.model.config, "vision_feature_layer", level)
    monkeypatch.setattr(llava.model.model.config, "vision_feature_layer", level)
    monkeypatch.setattr(llava._feeder, "_unread", ())
    whole = features(llava)
    monkeypatch.setattr(llava._feeder, "_unread", None)
    features(llava)
    assert llava._feeder._unread == tuple(reversed(layers[len(layers) - count :]))
    ran: list[int] = []

    def counting(index: int):
        return lambda forward, *args, **named: ran.append(index) or forward(*args, **named)

    with called_through(layers[0], counting(0)), called_through(layers[-1], counting(1)):
        assert torch.equal(whole, features(llava))
        assert ran == ([0] if count else [0, 1])
        ran.clear()
        with capture({"vision": llava.parts.vision}) as calls:
            assert torch.equal(whole, features(llava))
        assert (ran, len(calls)) == ([0, 1], 1)


def test_an_encoder_that_is_not_read_at_all_is_run_as_ever(llava: VLM):
    assert unread(llava.parts.vision, lambda: [torch.zeros(1)]) == ()


def test_what_the_environment_says_of_memory_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert keep_freed_memory() is False
