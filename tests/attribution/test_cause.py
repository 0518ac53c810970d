"""Which kind of error: by how far the answer holds over altered views, and by nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from vlmend import Example
from vlmend.attribution.cause import cause_of, views
from vlmend.errors import AttributionError

QUESTION = "what colour is the cup ?"


def test_what_is_weighed_is_the_models(vlm, picture):
    example = Example(QUESTION, picture(1))
    found = cause_of(vlm, example, "three birds")
    assert found.answer == "three birds"
    given = [Example(QUESTION, one.image, "three birds") for one in (example, *views(example))]
    wanted = []
    for row in vlm.run(vlm.prepare(given)).rows:
        length = row.answer_length
        tokens = row.logits_NV[:length].log_softmax(-1).gather(-1, row.target_N[:length, None])
        wanted.append(math.exp(float(tokens.mean())))
    assert found.seen == pytest.approx(wanted[0], rel=1e-3)
    assert found.held == pytest.approx(sum(wanted[1:]) / len(wanted[1:]), rel=1e-3)
    assert found.lowest == pytest.approx(min(wanted[1:]), rel=1e-3)
    assert found.views == len(wanted) - 1


def test_the_threshold_decides_and_the_line_says_why(llava, picture):
    example = Example(QUESTION, picture(1), "the right answer is not looked at")
    loose, strict = cause_of(llava, example, "red", firm=0.0), cause_of(llava, example, "red", firm=1.01)
    assert (loose.kind, strict.kind) == ("mis-known", "mis-seen")
    assert "read firmly" in loose.why
    assert "how the picture is read" in strict.why
    assert "\n" not in loose.why
    assert loose.to_json()["why"] == loose.why
    assert cause_of(llava, example).answer == llava.answer(example.image, QUESTION)


def test_views_differ_a_little(picture):
    example = Example(QUESTION, (picture(1), picture(2, size=(30, 50))))
    seen = views(example)
    assert len(seen) >= 8
    assert all([one.size for one in view.image] == [(44, 36), (30, 50)] for view in seen)
    pixels = np.full((64, 64, 3), 60, dtype=np.uint8)
    pixels[20:44, 20:44] = (200, 80, 40)
    plain = Image.fromarray(pixels)
    for view in views(Example(QUESTION, plain)):
        away = np.abs(np.asarray(view.image, dtype=float) - np.asarray(plain, dtype=float)).mean()
        assert 0 < away < 30


def test_what_has_no_cause(llava):
    with pytest.raises(AttributionError, match="no picture that could be read wrongly"):
        cause_of(llava, Example(QUESTION))
