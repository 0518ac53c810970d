from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from conftest import hooks_of
from vlmend import Example
from vlmend.models.trace import capture


def test_captures_in_order(llava, picture):
    layers = {f"layer {index}": layer for index, layer in enumerate(llava.parts.layers)}
    prepared = llava.prepare([Example("what ?", picture(1), "red")])
    with capture(layers) as calls:
        llava.run(prepared)
    assert [call.name for call in calls] == list(layers)
    for one, following in pairwise(calls):
        assert torch.equal(one.output, following.input)


def test_no_hook_survives(llava, picture):
    theirs = llava.parts.layers[1].register_forward_hook(lambda *args: None)
    try:
        before = hooks_of(llava)
        with pytest.raises(ZeroDivisionError), capture({"layer": llava.parts.layers[1]}):
            raise ZeroDivisionError
        assert hooks_of(llava) == before
        with pytest.raises(AttributeError), capture({"layer": llava.parts.layers[0], "broken": None}):  # type: ignore[dict-item]
            pass
        assert hooks_of(llava) == before
    finally:
        theirs.remove()
