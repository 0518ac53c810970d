"""Families that transformers knows, tried without weights."""

from __future__ import annotations

from collections import Counter

import pytest

from vlmend.models.families import examine, registered


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("llava", "model.language_model.layers"),
        ("blip-2", "language_model.model.decoder.layers"),
        ("qwen3_vl", "model.language_model.layers"),
        ("idefics2", "model.text_model.layers"),
        ("ovis2", "model.language_model.layers"),  # a connector of no usual name
        ("lfm2_vl", "model.language_model.layers"),  # a norm of no usual name
        ("mllama", "model.language_model.layers"),  # layers that look at pictures, and are not run without one
        ("llama4", "language_model.model.layers"),  # a decoder within a causal model
    ],
)
def test_families_that_can_be_worked_on(name, layers):
    family = examine(name)
    assert (family.state, family.reason) == ("verified", "")
    assert family.parts["layers"] == layers


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fuyu", "could not find its vision"),
        ("florence2", "mm_encoder_outputs"),
        ("pix2struct", "could not find its vision"),
    ],
)
def test_families_that_cannot(name, reason):
    family = examine(name)
    assert family.state == "refused"
    assert reason in family.reason
    assert "\n" not in family.reason


@pytest.mark.slow
def test_all_of_them():
    found = [examine(name) for name in registered()]
    counts = Counter(family.state for family in found)
    assert len(found) == len(registered())
    assert counts["verified"] >= 40
    assert all(family.reason or family.state == "verified" for family in found)
