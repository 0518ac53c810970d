"""The metrics agree with what EasyEdit and VLKEB compute of the same logits."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from vlmend.evaluation.metrics import (
    exact_match,
    negative_log_likelihood,
    ranked_agreement,
    set_agreement,
    token_accuracy,
)
from vlmend.models.outputs import kl_divergence

EXACT = 1e-6
FLOAT = 1e-5


@pytest.fixture(scope="module")
def golden(fixtures):
    numbers = json.loads((fixtures / "edit_metrics.json").read_text())
    return numbers, load_file(fixtures / "edit_metrics.safetensors")


def aligned(tensors, index):
    """Logits and labels of one record, shifted, without prompt positions."""
    logits, labels = tensors[f"acc.{index}.logits"][0, :-1], tensors[f"acc.{index}.labels"][0, 1:]
    return logits[labels != -100], labels[labels != -100]


@pytest.mark.parametrize("index", range(6))
def test_answer_scores(golden, index):
    numbers, tensors = golden
    expected = numbers["records"][index]
    logits, labels = aligned(tensors, index)
    assert len(labels) == expected["n_target"]
    assert token_accuracy(logits, labels) == pytest.approx(expected["editor_token_acc"], abs=EXACT)
    assert token_accuracy(logits, labels) == pytest.approx(expected["vlkeb_token_acc"], abs=EXACT)
    assert exact_match(logits, labels) == expected["editor_exact_match"]
    assert negative_log_likelihood(logits, labels) == pytest.approx(expected["trainer_nll"], abs=FLOAT)


@pytest.mark.parametrize("index", range(5))
def test_locality_scores(golden, index):
    numbers, tensors = golden
    expected = numbers["locality"][index]
    before, after = tensors[f"loc.{index}.pre"][0], tensors[f"loc.{index}.post"][0]
    assert ranked_agreement(before, after, 1) == pytest.approx(expected["k1"], abs=EXACT)
    assert ranked_agreement(before, after, 10) == pytest.approx(expected["k10"], abs=EXACT)
    overlap = expected["set_overlap_top10_not_in_reference"]
    assert set_agreement(before, after, 10) == pytest.approx(overlap, abs=EXACT)
    if f"loc.{index}.kl_mask" in tensors:
        kept = tensors[f"loc.{index}.kl_mask"][0].bool()
        divergence = kl_divergence(before[kept], after[kept])
        assert divergence == pytest.approx(expected["kl_loc_loss_masked"], abs=FLOAT)
        everywhere = kl_divergence(before, after)
        assert everywhere == pytest.approx(expected["kl_loc_loss_all_positions"], abs=FLOAT)


def test_by_hand():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    assert token_accuracy(logits, torch.tensor([1, 2])) == 0.5
    assert exact_match(logits, torch.tensor([1, 2])) == 0.0
    assert exact_match(logits, torch.tensor([1, 0])) == 1.0
    assert kl_divergence(logits, logits) == 0.0
