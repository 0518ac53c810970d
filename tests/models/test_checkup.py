"""`checkup` finds the promises kept, and each that is broken."""

from __future__ import annotations

import pytest
import torch

import vlmend
from vlmend import VLM
from vlmend.models.checkup import checkup


@pytest.fixture
def own(tiny_folder) -> VLM:
    """A model to break."""
    return vlmend.load(tiny_folder("llava"))


def broken(vlm: VLM) -> list[str]:
    return [finding.name for finding in checkup(vlm) if not finding.ok]


def test_every_family_passes(vlm: VLM):
    findings = list(checkup(vlm))
    assert [finding.name for finding in findings] == ["batch", "generation", "sight", "untouched"]
    assert all(finding.ok for finding in findings), findings


def test_rows_that_see_each_other(own):
    handle = own.parts.layers[1].register_forward_hook(lambda module, args, out: out + out.mean(0, keepdim=True))
    assert "batch" in broken(own)
    handle.remove()
    assert not broken(own)


def test_a_cache_that_lies(own):
    own.parts.layers[1].register_forward_hook(lambda module, args, out: out.flip(-1) if out.shape[1] == 1 else None)
    assert broken(own) == ["generation"]


def test_a_blind_model(own):
    with torch.no_grad():
        for parameter in own.parts.connector.parameters():
            parameter.zero_()
    assert broken(own) == ["sight"]


def test_a_model_that_is_written_to(own, monkeypatch):
    run = VLM.run

    def careless(self, prepared, *args, **kwargs):
        self.parts.norm.weight.mul_(1.0)
        return run(self, prepared, *args, **kwargs)

    monkeypatch.setattr(VLM, "run", careless)
    assert broken(own) == ["untouched"]
