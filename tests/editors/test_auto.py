"""Layers and regions by attribution: what is chosen is what is edited, and the edit says why."""

from __future__ import annotations

import json

import pytest

from conftest import FAMILIES
from vlmend import Edit, editor
from vlmend.attribution.localize import deciding_layers, deciding_places, seeing_layer
from vlmend.edits.states import StateOp

QUICK = {"ft": {"steps": 2}, "lora": {"steps": 2}, "visual-delta": {"steps": 2, "keep_weight": 0.0}}


def layers_of(vlm, edit) -> set[int]:
    """The decoder layers that an edit changes."""
    prefix = vlm.parts.paths["layers"]
    if edit.names:
        memory = {disk: path for path, disk in vlm.weights._disk.items()}
        return {int(memory[name].removeprefix(f"{prefix}.").split(".")[0]) for name in edit.names}
    return {op.layer for route in edit.ops for op in route.inner if isinstance(op, StateOp)}


@pytest.mark.parametrize("name", ["ft", "lora"])
def test_weights(llava, cases, name, tmp_path):
    edit = editor(name, layers="auto", **QUICK[name]).fit(llava, cases[:2])
    default = llava.parts.layer_indices(type(editor(name)).layers)
    wanted = deciding_layers(llava, [case.request for case in cases[:2]], len(default))
    assert layers_of(llava, edit) == set(wanted.layers)
    assert edit.chosen["layers"] == wanted.to_json()
    assert edit.settings["layers"] == "auto"
    back = Edit.load(edit.save(tmp_path / "edit"))
    assert back.chosen == edit.chosen
    assert editor(name, **QUICK[name]).fit(llava, cases[:1]).chosen == {}


def test_states_and_regions(llava, cases, tmp_path):
    made = editor("visual-delta", layers="auto", regions="auto", **QUICK["visual-delta"])
    edit = made.fit(llava, cases[:2])
    assert layers_of(llava, edit) == set(seeing_layer(llava, [case.request for case in cases[:2]]).layers)
    for route, case in zip(edit.ops, cases[:2], strict=True):
        spot = deciding_places(llava, case.request)
        assert all(op.places.tolist() == list(spot.places) for op in route.inner)
        assert edit.chosen["regions"][route.key.picture]["why"] == spot.why
    saved = json.loads((edit.save(tmp_path / "edit") / "edit.json").read_text())
    assert saved["chosen"]["layers"]["why"] == edit.chosen["layers"]["why"]


def test_two_edits_keep_what_they_agree_on(llava, cases):
    one, other = (editor("ft", layers="auto", **QUICK["ft"]).fit(llava, [case]) for case in cases[:2])
    assert (one + one).chosen == one.chosen
    assert (one + other).chosen == {}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tiny, cases, family):
    for name, settings in QUICK.items():
        assert editor(name, layers="auto", **settings).fit(tiny(family), cases[:1]).chosen["layers"]["why"]
