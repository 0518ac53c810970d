from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vlmend
from conftest import weights_of
from vlmend.errors import ModelError, ModelNotFoundError
from vlmend.models.bundled import BUNDLED, bundled_folder


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder("llava"), tmp_path / "copy")


def test_names_are_those_on_disk(vlm):
    with safe_open(f"{vlm.name}/model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    base = dict(vlm.weights.base())
    assert stored.keys() <= base.keys()
    assert all(torch.equal(tensor, base[name]) for name, tensor in stored.items())
    tied = base.keys() - stored.keys()
    assert all(any(base[name] is base[other] for other in stored) for name in tied)


def test_older_names_on_disk(tiny_folder, tmp_path, llava):
    """A checkpoint with other tensor names has its own names and its own fingerprint, and the same weights."""
    folder = shutil.copytree(tiny_folder("llava"), tmp_path / "older")
    tensors = load_file(folder / "model.safetensors")
    swap = {"language_model.model.": "model.language_model.", "language_model.lm_head": "lm_head"}
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in swap.items():
            name = name.replace(old, new) if name.startswith(old) else name
        name = name if name.startswith(("model.", "lm_head")) else f"model.{name}"
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    older = vlmend.load(str(folder))
    assert set(renamed) == {name for name, _ in older.weights.base()}
    mine, theirs = weights_of(llava), weights_of(older)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_fingerprints(llava, tiny_folder, tiny):
    again = vlmend.load(str(tiny_folder("llava")))
    assert again.fingerprint == llava.fingerprint
    other = vlmend.load(str(tiny_folder("llava", seed=1)))
    assert other.fingerprint != llava.fingerprint
    rounded = vlmend.load(str(tiny_folder("llava")), dtype=torch.bfloat16)
    assert rounded.fingerprint == llava.fingerprint
    changed = vlmend.load(str(tiny_folder("llava")))
    with torch.no_grad():
        _, tensor = next(iter(changed.weights.base()))
        tensor[0] += 0.01
    assert changed.fingerprint != llava.fingerprint


def test_bfloat16_runs(tiny_folder, llava, picture):
    rounded = vlmend.load(str(tiny_folder("llava")), dtype=torch.bfloat16)
    example = vlmend.Example("what is it ?", picture(1), "red")
    exact, close = (model.run(model.prepare([example])).rows[0].logits_NV for model in (llava, rounded))
    assert close.dtype == torch.float32
    torch.testing.assert_close(close, exact, atol=0.3, rtol=0.1)
    edit = vlmend.FT(steps=2).fit(rounded, [vlmend.EditCase("a", example)])
    before = weights_of(rounded)
    with rounded.using(edit), llava.using(edit):
        pass
    after = weights_of(rounded)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_old_processors_are_completed(copied, llava, picture):
    """Checkpoints of before 2025 do not say how many visual tokens a picture has."""
    path = copied / "processor_config.json"
    settings = json.loads(path.read_text())
    for key in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        settings.pop(key)
    path.write_text(json.dumps(settings))
    old = vlmend.load(str(copied))
    example = vlmend.Example("what is it ?", picture(1), "red")
    mine, theirs = (model.run(model.prepare([example])).rows[0].logits_NV for model in (llava, old))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no-such-model", "no bundled model"),
        ("./nowhere", "no bundled model"),
        ("/nowhere/at/all", "no bundled model"),
        ("org/no-such-model", "cannot be loaded: it is not in the local cache, and the hub is not"),
    ],
)
def test_no_such_model(name, problem):
    with pytest.raises(ModelNotFoundError, match=problem) as caught:
        vlmend.load(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_without_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        vlmend.load(str(tmp_path))


def test_not_a_vision_language_model(tmp_path):
    transformers.LlamaConfig(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="llama model, which does not answer questions about pictures"):
        vlmend.load(str(tmp_path))


def test_damaged_files(copied):
    weights = copied / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        vlmend.load(str(copied))
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        vlmend.load(str(copied))


def test_missing_weights(copied):
    tensors = load_file(copied / "model.safetensors")
    del tensors[next(name for name in tensors if "down_proj" in name)]
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights: .*down_proj"):
        vlmend.load(str(copied))


def test_bundled_names():
    assert set(BUNDLED) == {"demo", "demo-llava", "demo-blip2", "demo-minigpt4"}
    assert bundled_folder("nothing") is None


def test_a_model_in_memory_is_taken_as_it_is(tiny_folder):
    """With the weights that it has, no copy of them; what was loaded from the same files says the same."""
    folder = tiny_folder()
    loaded = vlmend.load(folder)
    vlm = vlmend.wrap(loaded.model.train(), loaded.processor, name="mine")
    assert vlm.model is loaded.model and not vlm.model.training and vlm.name == "mine"
    assert vlm.fingerprint == vlmend.load(folder).fingerprint
    assert vlm.answer(None, "what ?") == loaded.answer(None, "what ?")
