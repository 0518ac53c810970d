"""`vlmend doctor`: sound installations pass, a torchvision that cannot be imported does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmend.cli.doctor import torchvision


def checks(document: Any) -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in document["checks"]}


def test_this_installation_is_sound(vlmend_cli: Callable[..., Any]) -> None:
    outcome = vlmend_cli("doctor", "--json")
    assert outcome.code == 0
    found = checks(outcome.document)
    assert found["torch"] and found["transformers"] and found["torchvision"]
    assert outcome.document["model"] is None


def test_broken_torchvision_is_found(
    vlmend_cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "torchvision", raising=False)
    check = torchvision()
    assert not check.ok
    assert "nms does not exist" in check.detail
    outcome = vlmend_cli("doctor", "--json")
    assert outcome.code == 1
    assert checks(outcome.document)["torchvision"] is False


def test_model_is_described(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path]) -> None:
    model = vlmend_cli("doctor", tiny_folder(), "--json").document["model"]
    first, last = model["visual_positions"]
    assert model["visual_tokens"] == last - first + 1
    assert {"vision", "connector", "layers", "head"} <= set(model["parts"])


def test_text_names_every_part(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path]) -> None:
    text = vlmend_cli("doctor", tiny_folder()).stdout
    assert "connector:" in text
    assert "fingerprint" in text


def test_model_is_checked(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path]) -> None:
    outcome = vlmend_cli("doctor", tiny_folder(), "--json")
    assert outcome.code == 0
    promises = {check["name"]: check["ok"] for check in outcome.document["model"]["checks"]}
    assert promises == {"batch": True, "generation": True, "sight": True, "untouched": True}


def test_a_blind_model_is_unsound(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_folder(), tmp_path / "blind")
    tensors = load_file(folder / "model.safetensors")
    blind = {name: tensor.zero_() if "projector" in name else tensor for name, tensor in tensors.items()}
    save_file(blind, folder / "model.safetensors", {"format": "pt"})
    outcome = vlmend_cli("doctor", folder)
    assert outcome.code == 1
    assert "WRONG  sight" in outcome.stdout


def test_families(vlmend_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmend.models import families

    monkeypatch.setattr(families, "registered", lambda: ("llava", "florence2"))
    outcome = vlmend_cli("doctor", "--families", "--json")
    assert outcome.code == 0
    document = outcome.document["families"]
    assert document["counts"] == {"registered": 2, "verified": 1, "refused": 1}
    llava, florence = document["families"]
    assert llava["parts"]["layers"] == "model.language_model.layers"
    assert "mm_encoder_outputs" in florence["reason"]
    text = vlmend_cli("doctor", "--families").stdout
    assert "2 registered, 1 verified, 1 refused" in text
    assert "model.language_model.layers" in text
