from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from vlmend import Attribution, EditCase, Example, Target, attribute
from vlmend.attribution.base import METHODS, Attributor, attributor
from vlmend.errors import AttributionError, UnknownNameError
from vlmend.models.layout import Place


def some(scores: Any, **axes: Any) -> Attribution:
    """A made-up attribution over one picture of 4 by 2 pixels."""
    return Attribution(
        method="made-up",
        settings={},
        scores=torch.tensor(scores),
        axes=axes,
        target={"tokens": [["red"]], "ids": [[1]], "of": "logit", "value": 1.0},
        model="none",
        question="what ?",
        places=(Place(0, (0, 0, 2, 2)), Place(0, (2, 0, 4, 1)), Place(0, None)),
        sizes=((4, 2),),
    )


def test_axes_are_chosen_by_name():
    one = some([[1.0, 2.0], [3.0, 4.0]], layer=(5, 7), module=("attention", "mlp"))
    assert one.at(layer=7).scores.tolist() == [3.0, 4.0]
    assert one.at(layer=7, module="mlp").scores.item() == 4.0
    assert one.total("layer").scores.tolist() == [4.0, 6.0]
    assert one.mean("module").axes == {"layer": (5, 7)}
    assert one.mean("module").scores.tolist() == [1.5, 3.5]
    with pytest.raises(UnknownNameError, match="no layer named '6'; there are: 5, 7"):
        one.at(layer=6)
    with pytest.raises(UnknownNameError, match="no axis"):
        one.total("head")
    with pytest.raises(AttributionError, match="has no map: its axes are layer, module"):
        one.heat()


def test_heat_lies_over_the_original_picture():
    one = some([[1.0, 2.0, 9.0]], layer=(3,), place=(0, 1, 2))
    heat = one.heat()
    assert heat.shape == (2, 4)
    assert heat[0].tolist() == [1.0, 1.0, 2.0, 2.0]
    assert heat[1, :2].tolist() == [1.0, 1.0]
    assert heat[1, 2:].isnan().all()
    assert one.peak() == (3.0, 0.5)
    with pytest.raises(AttributionError, match="no picture 1"):
        one.heat(1)
    two = some([[1.0, 2.0, 9.0]] * 2, layer=(3, 4), place=(0, 1, 2))
    with pytest.raises(AttributionError, match=r"at\(layer=3\)"):
        two.heat()
    assert two.mean("layer").peak() == (3.0, 0.5)


def test_what_is_not_finite_is_no_result():
    with pytest.raises(AttributionError, match="not finite"):
        some([float("nan")], layer=(0,))
    with pytest.raises(AttributionError, match="do not fit"):
        some([1.0, 2.0], layer=(0,))


def test_figures(picture, tmp_path):
    shown = (
        some([[1.0, 2.0], [3.0, -4.0]], layer=(5, 7), module=("attention", "mlp")),
        some([1.0, 2.0], layer=(5, 7)),
        some([[1.0] * 4] * 2, layer=(5, 7), group=("a", "b", "c", "d")),
        some([[1.0, 2.0, 9.0]] * 2, layer=(3, 4), place=(0, 1, 2)),
    )
    for index, one in enumerate(shown):
        figure = one.plot(picture(0, (4, 2)))
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{index}.png")
    assert len(shown[0].plot().axes[0].patches) == 4
    assert len(shown[3].plot().axes) == 2
    with pytest.raises(AttributionError, match="two axes at most"):
        some([[[1.0]]], a=(1,), b=(2,), c=(3,)).plot()


def test_methods_are_found_by_name():
    for name in METHODS:
        one = attributor(name)
        assert isinstance(one, Attributor)
        assert one.name == name
        assert type(one).__doc__
    with pytest.raises(UnknownNameError, match="no attribution method named 'guess'"):
        attributor("guess")
    with pytest.raises(UnknownNameError, match="hyper-parameter of attribution method 'contributions'"):
        attributor("contributions", depth=3)


def test_a_result_is_json(llava, picture):
    example = Example("what ?", picture(1), "red")
    found = attribute(llava, EditCase("case", example), "decomposition", Target("red"))
    document = json.loads(json.dumps(found.to_json()))
    assert document["axes"]["module"] == ["attention", "mlp"]
    assert document["target"]["answer"] == "red"
    assert document["completeness"]["error"] < 1e-4
    assert torch.tensor(document["scores"]).shape == found.scores.shape
    assert document["sizes"] == [[44, 36]]
    own = attribute(llava, example)
    assert own.target["answer"] is None  # the example's own answer is not looked at
    assert own.target["ids"] == attribute(llava, Example("what ?", picture(1))).target["ids"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda: Target(" "), "has no tokens"),
        (lambda: Target("red", token=9), "has no token 9"),
        (lambda: Target(against="red"), "takes no 'against'"),
    ],
)
def test_targets_that_say_nothing(llava, picture, target, message):
    with pytest.raises(AttributionError, match=message):
        attribute(llava, Example("what ?", picture(1)), "contributions", target())


def test_edits_in_force_are_attributed(llava, picture, cases):
    """The edited model is another model; its attribution says which edits were in force."""
    from vlmend import editor

    example = cases[0].request
    before = attribute(llava, example)
    edit = editor("visual-delta", steps=3, keep_weight=0.0).fit(llava, cases[:1])
    with llava.using(edit):
        after = attribute(llava, example)
    assert after.edits == (edit.id,)
    assert after.completeness.error < 1e-4
    assert not torch.equal(before.scores, after.scores)
    assert torch.equal(before.scores, attribute(llava, example).scores)


def test_weights_that_are_not_finite(llava, picture):
    weight = llava.parts.norm.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[0] = torch.nan
        with pytest.raises(AttributionError, match="not finite"):
            attribute(llava, Example("what ?", picture(1)))
    finally:
        with torch.no_grad():
            weight.copy_(kept)
