"""What works on a CPU works on a GPU: nothing is made in one place and used in the other.

Where there is no GPU, that is found by tensors that pretend to be elsewhere (`pretended.py`).
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import vlmend
from pretended import pretending
from vlmend import VLM, Edit, Example, attribute, editor
from vlmend.alignment.adapters import LoRAAdapter
from vlmend.alignment.train import Alignment, align
from vlmend.alignment.weaken import Weakening, weakened
from vlmend.attribution.base import METHODS
from vlmend.data.formats import plain
from vlmend.data.records import PreferencePair
from vlmend.editors.base import CONTROLS, EDITORS
from vlmend.editors.training import TRAINABLE, train, trainable_class
from vlmend.evaluation.editing import evaluate
from vlmend.evaluation.sequence import sequence
from vlmend.models.contrast import Contrast

CUDA = torch.device("cuda:0")
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"steps": 2} for name in ("ft", "lora", "t-patcher", "visual-delta", "vead-memory", "memit", "alphaedit")},
    "visual-exemplar": {"missing": "leave"},
    "ultraedit": {"lifelong": True},
}
TRAINING: dict[str, dict[str, Any]] = {
    "ke": {"layers": [2, 3], "hidden": 8, "condition": 8},
    "liveedit": {"layers": [1], "width": 32, "heads": 4, "rank": 2},
    "lte": {"layers": [1, 2, 3]},
    "mend": {"layers": [2, 3], "rank": 4},
    "serac": {"width": 32, "size": 16},
    "vead": {"layers": [0, 1], "width": 48, "heads": 4},
    "vead-memory": {"width": 16, "size": 16},
}
BRIEF = {"steps": 2, "check_every": 1, "batch": 2, "held_out": 0.2}


@pytest.fixture(scope="module")
def there(tiny_folder) -> Any:
    """A tiny model on CUDA, or one that pretends to be there, as does all that is moved there while it is used."""
    with nullcontext() if torch.cuda.is_available() else pretending():
        yield vlmend.load(str(tiny_folder("llava")), device="cuda")


@pytest.fixture(scope="module")
def more(cases, picture):
    """Enough cases to train on."""
    return [
        dataclasses.replace(
            case, request=dataclasses.replace(case.request, image=picture(seed)), id=f"{case.id}-{seed}"
        )
        for seed in (41, 42)
        for case in cases
    ]


def write_exemplars(some, folder):
    made = []
    for case in some:
        case.request.image.save(folder / f"{case.id}.png")
        asked = dataclasses.replace(case.request, image=folder / f"{case.id}.png")
        made.append(dataclasses.replace(case, request=asked, probes=()))
    plain.write(made, folder / "exemplars.jsonl")


def test_it_is_noticed(there):
    here, elsewhere = torch.ones(3), torch.ones(3, device="cuda")
    assert there.device == elsewhere.device == CUDA and here.device.type == "cpu"
    assert (elsewhere * 2).device == elsewhere[here.bool()].device == CUDA
    with pytest.raises(RuntimeError, match="same device"):
        elsewhere + here
    with pytest.raises(TypeError, match="cuda:0"):
        elsewhere.numpy()
    assert (elsewhere.cpu() + here).tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", sorted({**EDITORS, **CONTROLS}))
def test_editors(there: VLM, more, name, tmp_path):
    """Trained where that is needed, fitted, asked, saved, in force together with another, measured."""
    settings = dict(SETTINGS.get(name, {}))
    if name in TRAINABLE:
        own = {**TRAINING[name], **BRIEF}
        if name == "vead-memory":
            own["adapter"] = str(tmp_path / "vead")
            train(
                trainable_class("vead")(**TRAINING["vead"] | {"layers": [0]}, **BRIEF), there, more, tmp_path / "vead"
            )
        train(trainable_class(name)(**own), there, more, tmp_path / "weights")
        settings["weights"] = str(tmp_path / "weights")
    if name == "visual-exemplar":
        write_exemplars(more[3:], tmp_path)
        settings["exemplars"] = str(tmp_path / "exemplars.jsonl")
    method = editor(name, **settings)
    edit = method.fit(there, more[:2])
    loaded = Edit.load(edit.save(tmp_path / "edit"))
    rows = there.prepare([case.request for case in more[:2]])
    assert all(row.logits_NV.device == CUDA for row in there.run(rows, loaded).rows)
    with there.using(loaded):
        on_top = method.fit(there, more[2:3])
        assert len(there.generate(rows, on_top, max_new_tokens=2)) == 2
    evaluate(there, edit, more[:1], max_new_tokens=2)


def test_one_after_another(there: VLM, more):
    (point,) = sequence(there, editor("ultraedit", lifelong=True), more[:3], at=(3,), turn=2, max_new_tokens=2)
    assert point.finite and not point.failed


@pytest.mark.parametrize("name", sorted(METHODS))
def test_attribution(there: VLM, more, name):
    assert attribute(there, more[0].request, name) is not None


@pytest.fixture(scope="module")
def pairs(picture):
    return [
        PreferencePair(f"p{n}", "what is this", f"a red {noun}", f"a blue {noun} there", picture(n),
                       chosen_spans=((2, 5),), rejected_spans=((2, 6),))
        for n, noun in enumerate(("cat", "dog", "cup", "hat"))
    ]  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "bpo"},
        {"objective": "mdpo", "cached": True},
        {"objective": "sigmoid(other_weight=0) + sft", "recompute": True},
        {"objective": "bpo", "contrast": "black", "adapter": LoRAAdapter(rank=2, modules=("mlp", "connector"))},
    ],
)
def test_preferences(there: VLM, pairs, tmp_path, settings, monkeypatch):
    if not torch.cuda.is_available():  # there is nowhere to move it
        for moves in ("transformers.Trainer._move_model_to_device", "accelerate.Accelerator.prepare_model"):
            monkeypatch.setattr(moves, lambda _self, model, *_given, **_named: model)
        monkeypatch.setattr("transformers.TrainingArguments.device", CUDA)
    edit = align(there, pairs, tmp_path / "run", Alignment(steps=2, batch=2, **settings))
    asked = there.prepare([Example(pairs[0].question, pairs[0].image)])
    assert len(there.generate(asked, edit, max_new_tokens=2)) == 1


def test_worse_answers(there: VLM, more):
    """Of a weakened picture, and by the contrast with it."""
    asked, names = [case.request for case in more[:2]], [case.id for case in more[:2]]
    for where in ("pixels", "picture"):
        made, noise = weakened(there, asked, names, Weakening("step", 500, where))
        assert len(noise) == 2
        against = Contrast(there.prepare(asked), 0.5)
        assert len(there.replies(made, max_new_tokens=2, against=against)) == 2
    assert len(weakened(there, asked, names, Weakening("kl", 0.01))[1]) == 2
