from __future__ import annotations

import pytest
import torch

from vlmend import Example, Target, attribute
from vlmend.attribution.contributions import Contributions
from vlmend.attribution.modules import MODULES, modules_of
from vlmend.models.trace import capture, first_tensor


def test_visedit_gives_these(golden):
    """Per sample and in the mean, with the model's own next token as the key token."""
    found = [attribute(golden.vlm, one, "contributions") for one in golden.examples]
    for index, (one, expected) in enumerate(zip(found, golden.said["C_per_sample"], strict=True)):
        assert one.target["ids"] == [[golden.said[f"key_token_id.{index}"]]]
        wanted_LM = torch.tensor([expected[name] for name in MODULES]).T
        torch.testing.assert_close(one.scores, wanted_LM, rtol=0, atol=1e-5)
    mean_LM = torch.stack([one.scores for one in found]).mean(0)
    wanted_LM = torch.tensor([golden.said["C_mean_over_samples"][name] for name in MODULES]).T
    torch.testing.assert_close(mean_LM, wanted_LM, rtol=0, atol=1e-5)


def test_every_family(vlm, picture):
    """For a given token the sign is that of its logit, and the largest logit alone decides C by its probability."""
    example = Example("what colour is the cup ?", picture(1))
    found = attribute(vlm, example, "contributions", Target("red", token=0))
    assert found.axes == {"layer": tuple(range(len(vlm.parts.layers))), "module": MODULES}
    token = found.target["ids"][0][0]
    prepared = vlm.prepare([Example("what colour is the cup ?", picture(1), "red")])
    position = len(prepared.rows[0].ids_T) - 1
    modules = [module for layer in found.axes["layer"] for module in modules_of(vlm.parts, layer).values()]
    with capture({str(index): module for index, module in enumerate(modules)}) as calls:
        vlm.run(prepared)
    given_MD = torch.stack(
        [first_tensor(call.output).reshape(1, -1, vlm.parts.norm.weight.shape[0])[0, position] for call in calls]
    )
    lens_MV = vlm.parts.head(vlm.parts.norm(given_MD))
    largest = lens_MV[:, token].abs().argmax()
    expected = lens_MV[largest, token].sign() * lens_MV[largest].softmax(-1)[token].sqrt()
    torch.testing.assert_close(found.scores.flatten()[largest], expected)
    assert torch.equal(found.scores.flatten().sign(), lens_MV[:, token].sign())
    assert torch.equal(found.at(layer=2, module="mlp").scores, found.scores[2, 1])


def test_without_a_picture(llava):
    found = attribute(llava, Example("who wrote the song"), "contributions")
    assert found.sizes == ()
    assert found.scores.shape == (len(llava.parts.layers), 2)


def test_answers_are_taken_token_by_token(llava, picture):
    example = Example("what ?", picture(2))
    whole = Contributions().attribute(llava, example, Target("three birds"))
    count = len(whole.target["ids"][0])
    assert count > 1
    each = [Contributions().attribute(llava, example, Target("three birds", token=i)) for i in range(count)]
    torch.testing.assert_close(whole.scores, torch.stack([one.scores for one in each]).mean(0))
    other = Contributions().attribute(llava, example, Target("red"))
    both = Contributions().attribute(llava, example, Target("three birds", against="red"))
    torch.testing.assert_close(both.scores, whole.scores - other.scores)
    assert both.target["value"] == pytest.approx(whole.target["value"] - other.target["value"], abs=1e-6)
