from __future__ import annotations

import pytest
import torch

from vlmend import Example, Target, attribute
from vlmend.attribution.groups import around, groups_of
from vlmend.attribution.target import strands
from vlmend.errors import AttributionError, PartsError

QUESTION = "what colour is the cup ?"
RED = Target("red")


def test_restoring_brings_the_clean_run_back(vlm, picture):
    """What enters the first layer at the visual tokens is all there is of a picture.

    A family may feed the picture to layers above too: then the first layer brings back a part.
    """
    found = attribute(vlm, Example(QUESTION, picture(1)), "patching", RED)
    whole = found.rest["clean"] - found.rest["corrupted"]
    assert abs(whole) > 1e-3
    assert found.rest["clean"] == pytest.approx(found.target["value"])
    assert set(found.axes["group"]) <= {"before", "picture", "after", "last"}
    single = attribute(vlm, Example(QUESTION, picture(1)), "patching", Target("red", token=0), layers=[-1], what="mlp")
    assert single.scores.abs().max() > 0
    assert single.at(group="picture").scores.abs().max() < 1e-5  # nobody reads it above the last layer's attention
    at_once = float(found.at(layer=0, group="picture").scores)
    if not any(fed_above(vlm, picture)):
        assert at_once == pytest.approx(whole, abs=1e-4)
        if "before" in found.axes["group"] and not sees_the_picture(vlm, picture):
            assert found.at(group="before").scores.abs().max() < 1e-4  # it never saw the picture
    else:
        assert at_once != pytest.approx(whole, abs=1e-4)


def fed_above(model, picture):
    """Whether something is added to the states between layers, one answer for each."""
    from itertools import pairwise

    from vlmend.models.trace import capture

    layers = {str(index): layer for index, layer in enumerate(model.parts.layers)}
    with capture(layers) as calls:
        model.run(model.prepare([Example(QUESTION, picture(1), "red")]))
    return [not torch.equal(one.output, after.input) for one, after in pairwise(calls)]


def sees_the_picture(model, picture):
    """Whether words before the picture come out otherwise for another picture (a family may read both ways)."""
    last = {"layer": model.parts.layers[-1]}
    (one,), (other,) = (strands(model, Example(QUESTION, picture(seed)), RED) for seed in (1, 2))
    before = groups_of(one)["before"]
    states = [strand.read(model, last).of("layer").output[0, before] for strand in (one, other)]
    return not torch.allclose(*states, atol=1e-5)


@pytest.mark.parametrize("what", ["attention", "mlp"])
def test_modules_in_windows(llava, picture, what):
    """All modules of a kind at all tokens of one group, by hand: the widest window does not depend on its layer."""
    example = Example(QUESTION, picture(1))
    found = attribute(llava, example, "patching", RED, what=what, window=9, layers=[1, 2])
    count = len(llava.parts.layers)
    assert around(1, 9, count) == around(2, 9, count) == tuple(range(count))
    torch.testing.assert_close(found.scores[0], found.scores[1])
    narrow = attribute(llava, example, "patching", RED, what=what, layers=[1, 2])
    assert not torch.allclose(narrow.scores[0], narrow.scores[1])


def test_a_difference_and_noise(llava, picture):
    example = Example(QUESTION, picture(1))
    both = attribute(llava, example, "patching", Target("red", against="blue"), corruption="noise")
    each = [attribute(llava, example, "patching", Target(one), corruption="noise") for one in ("red", "blue")]
    torch.testing.assert_close(both.scores, each[0].scores - each[1].scores)
    grey = attribute(llava, example, "patching", RED)
    assert grey.rest["clean"] == pytest.approx(each[0].rest["clean"])
    assert grey.rest["corrupted"] != pytest.approx(each[0].rest["corrupted"])


def test_groups_share_the_prompt_out(vlm, picture):
    (strand,) = strands(vlm, Example(QUESTION, picture(1)), RED)
    groups = groups_of(strand)
    joined = torch.cat(list(groups.values())).sort().values
    assert torch.equal(joined, torch.arange(len(strand.row.ids_T) + len(strand.picks_N) - 1))
    assert torch.equal(groups["picture"], strand.visual)


def test_windows_are_cut_at_the_ends():
    assert around(0, 1, 4) == (0,)
    assert around(0, 3, 4) == (0, 1)
    assert around(3, 0.5, 8) == (2, 3, 4, 5)
    assert around(3, 0.01, 8) == (3,)


def test_what_makes_no_sense_is_refused(llava, picture):
    with pytest.raises(AttributionError, match="has no picture"):
        attribute(llava, Example("who wrote the song"), "patching")
    with pytest.raises(PartsError, match="no layer 11"):
        attribute(llava, Example("what ?", picture(1)), "patching", layers=[11])
