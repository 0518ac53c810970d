"""Attributions with a text before the question are those of the question with the text written into it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmend import Edit, Example, attribute
from vlmend.attribution.base import METHODS
from vlmend.attribution.target import Target
from vlmend.edits.prompts import RecallOp

QUICK = {"integrated-gradients": {"steps": 4}, "perturbation": {"path": "exact"}}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_sees_the_text(method, llava, picture):
    example = Example("what colour is the cup ?", picture(1))
    keys = llava.keys(llava.prepare([example, Example("is there a dog ?", picture(2))]))
    edit = Edit(llava.fingerprint, (RecallOp(("it is red . ", "there is a dog . "), keys, top=1, lead="so : "),))
    settings = QUICK.get(method, {})
    written = replace(example, question=f"it is red . so : {example.question}")
    wanted = attribute(llava, written, method, Target("red"), **settings)
    with llava.using(edit):
        found = attribute(llava, example, method, Target("red"), **settings)
    torch.testing.assert_close(found.scores, wanted.scores, atol=1e-5, rtol=1e-4)
    assert found.question == example.question
