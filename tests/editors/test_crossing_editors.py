"""Editors on models whose layers look at pictures: who mends them, and who says that it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import CROSSING, assert_untouched, left_alone, said_by_forced_runs, weights_of
from vlmend import VLM, Edit, EditCase, Example, editor
from vlmend.editors.training import train, trainable_class
from vlmend.errors import EditError, PartsError

MENDING = {
    "ft": ({"steps": 20, "lr": 5e-3}, 0.7),
    "lora": ({"lr": 2e-2}, 0.7),
    "t-patcher": ({"memory_weight": 0.1, "lr": 0.05}, 0.7),
    "ultraedit": ({"eta": 0.1}, 0.9),
    "memit": ({}, 0.7),
}
"""Method -> settings that move a tiny random model, and what may be left of the loss."""


@pytest.fixture(params=CROSSING)
def vlm(request, tiny):
    yield from left_alone(tiny(request.param))


def loss(vlm: VLM, case: EditCase, edit: Edit | None) -> float:
    row = vlm.run(vlm.prepare([case.request]), edit).rows[0]
    return float(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N))


@pytest.mark.parametrize("method", MENDING)
def test_weights_and_neurons_are_mended_and_undone(vlm: VLM, cases, picture, method, tmp_path):
    settings, left = MENDING[method]
    before = weights_of(vlm)
    two = replace(cases[1], request=Example("what is in <image> and in <image> ?", (picture(1), picture(2)), "a cat"))
    for case in (cases[0], two):
        edit = editor(method, **settings).fit(vlm, [case])
        assert_untouched(vlm, before)
        assert loss(vlm, case, edit) < left * loss(vlm, case, None)
        back = Edit.load(edit.save(tmp_path / case.id))
        with vlm.using(back):
            (said,) = vlm.generate(vlm.prepare([case.request]), max_new_tokens=4)
        assert_untouched(vlm, before)
        assert said == said_by_forced_runs(vlm, case.request, edit, 4)


@pytest.mark.parametrize("method", MENDING)
def test_layers_that_are_not_run_mend_nothing(vlm: VLM, cases, method):
    """The last layer looks at pictures: without one it has no part in an answer."""
    assert vlm.parts.crosses(len(vlm.parts.layers) - 1)
    blind = replace(cases[0], request=Example("who wrote the song ?", None, "nobody"))
    settings = {**MENDING[method][0], **({} if method == "t-patcher" else {"layers": "last"})}
    with pytest.raises(EditError, match="part in the answer") as caught:
        editor(method, **settings).fit(vlm, [blind])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("visual-delta", {}), ("visual-exemplar", {"exemplars": "any"}), ("memit", {"key": "visual"})],
)
def test_what_changes_visual_tokens_is_refused(vlm: VLM, cases, method, settings):
    with pytest.raises(PartsError, match="has no visual tokens") as caught:
        editor(method, **settings).fit(vlm, cases[:1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["vead", "liveedit", "lte"])
def test_what_is_trained_on_visual_tokens_is_refused(vlm: VLM, cases, picture, method, tmp_path):
    shown = [
        replace(one, id=f"{one.id}-{n}", request=replace(one.request, image=picture(n)))
        for n in range(40, 44)
        for one in cases
    ]
    with pytest.raises(PartsError, match="has no visual tokens"):
        train(trainable_class(method)(learns=(), keeps=(), steps=2, check_every=2, batch=3), vlm, shown, tmp_path)
