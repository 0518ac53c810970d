from __future__ import annotations

import pytest
import torch

from vlmend import Example, Target, attribute
from vlmend.attribution.integrated_gradients import greyed
from vlmend.attribution.target import OWN, strands
from vlmend.errors import AttributionError, PartsError
from vlmend.models.trace import altered

QUESTION = "what colour is the cup ?"
METHOD = "integrated-gradients"
CLOSE = {"rel": 1e-3, "abs": 3e-3}  # in nats; where activations have a kink (OPT's), the integral is found slowly


@pytest.mark.parametrize("target", [OWN, Target("red", against="three birds")], ids=["own", "difference"])
def test_scores_add_up(vlm, picture, target):
    """Over the visual states entering a middle layer and over the embeddings; a map over the original picture."""
    found = attribute(vlm, Example(QUESTION, picture(1)), METHOD, target, layers=[0, 2], steps=48)
    for expected, sum_ in found.details["completeness"]:
        assert abs(expected) > 5e-3
        assert sum_ == pytest.approx(expected, **CLOSE)
    one = found.at(layer=2) if "layer" in found.axes else found
    assert one.heat().shape == (36, 44)
    assert not one.heat().isnan().all()


def test_all_tokens(vlm, picture):
    found = attribute(vlm, Example(QUESTION, picture(1)), METHOD, Target("red"), over="all", steps=48)
    assert found.completeness.found == pytest.approx(found.completeness.expected, **CLOSE)
    assert list(found.axes) == ["layer", "token"]
    count = len(found.axes["token"])
    assert len(found.details["pieces"]) == len(found.details["visual"]) == count
    words = ~torch.tensor(found.details["visual"])
    assert found.scores[0, words].abs().max() > 0
    with pytest.raises(AttributionError, match="has no map"):
        found.heat()


@pytest.mark.parametrize("layer", [0, 2])
def test_one_step_by_hand(llava, picture, layer):
    """The gradient in the middle between a grey picture's states and the picture's, along the way between them."""
    example = Example(QUESTION, picture(1))
    found = attribute(llava, example, METHOD, Target("red"), layers=[layer], steps=1)
    (strand,), (grey,) = (strands(llava, one, Target("red")) for one in (example, greyed(example)))
    watched = {"layer": llava.parts.layers[layer]}
    ends = [one.read(llava, watched).of("layer").input[0, strand.visual] for one in (strand, grey)]
    middle = ((ends[0] + ends[1]) / 2).requires_grad_(True)
    with altered(llava.parts.layers[layer], lambda x: x.index_copy(1, strand.visual, middle[None])):
        logits = llava.run(strand.prepared, grad=True).rows[0].logits_NV
    (slope,) = torch.autograd.grad(strand.value(logits, "log_prob"), middle)
    torch.testing.assert_close(found.scores[0], ((ends[0] - ends[1]) * slope).sum(-1), rtol=1e-4, atol=1e-6)


def test_a_coarse_path_says_so(llava, picture):
    example = Example(QUESTION, picture(1))
    found = attribute(llava, example, METHOD, Target("red"), baseline="zero", steps=2)
    assert found.completeness.error > 0.05
    assert "take more steps" in found.notes[0]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [({"steps": 0}, AttributionError, "at least one step"), ({"layers": [7]}, PartsError, "no layer 7")],
)
def test_what_makes_no_sense_is_refused(llava, picture, settings, error, message):
    with pytest.raises(error, match=message):
        attribute(llava, Example("what ?", picture(1)), METHOD, **settings)
    with pytest.raises(AttributionError, match="has no picture"):
        attribute(llava, Example("who wrote the song"), METHOD)
