"""The losses and their gradients are TRL's, of the same logits and of the same sequences."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from vlmend.alignment import losses
from vlmend.alignment.answers import Answers, Pairs
from vlmend.alignment.logprobs import token_log_probs
from vlmend.alignment.objectives import Objective, Term
from vlmend.alignment.recipes import objective
from vlmend.errors import VlmendError

OURS = {
    "sigmoid": "sigmoid",
    "sigmoid_norm": "sigmoid-norm",
    "hinge": "hinge",
    "ipo": "ipo",
    "robust": "robust",
    "apo_zero": "apo-zero",
    "apo_down": "apo-down",
    "bco_pair": "bco",
    "nca_pair": "nca",
    "exo_pair": "exo",
    "sppo_hard": "sppo",
    "sft": "sft",
}
SMOOTHED = ("robust", "exo_pair")
MARGIN = (losses.sigmoid, losses.robust, losses.hinge)
PAIRED = (*MARGIN, losses.ipo, losses.apo_zero, losses.apo_down, losses.bco, losses.nca, losses.exo, losses.sppo)
RATIOS = st.floats(-40, 40)


@pytest.fixture(scope="module")
def numbers(fixtures):
    return json.loads((fixtures / "trl_dpo.json").read_text())


@pytest.fixture(scope="module")
def tensors(fixtures):
    return load_file(fixtures / "trl_dpo.safetensors")


def of_trl(name: str, beta: float, smoothing: float) -> Objective:
    """The objective that TRL calls by this name."""
    settings = {} if name == "sft" else {"beta": beta}
    if name in SMOOTHED:
        settings["label_smoothing"] = smoothing
    if name == "sft":
        settings["reduce"] = "batch-mean"  # TRL's mean is over all tokens of the batch
    return objective(OURS[name], **settings)


def pairs_of(tensors, dtype):
    """The four pairs, and the logits that their gradients go to."""
    logits = tensors["logits"].to(dtype).clone().requires_grad_()
    ids, mask = tensors["input_ids"], tensors["completion_mask"]
    policy = token_log_probs(logits, ids, mask)
    reference = token_log_probs(tensors["ref_logits"].to(dtype), ids, mask)
    half = len(ids) // 2
    chosen, rejected = (Answers(policy[rows], mask[rows], reference[rows]) for rows in (slice(half), slice(half, None)))
    return Pairs(chosen, rejected), logits


def near(expected, tolerance):
    return pytest.approx(expected, rel=0, abs=tolerance * max(1.0, abs(expected)))


@pytest.mark.parametrize("index", range(28))
def test_losses_and_gradients_as_trl(numbers, tensors, index):
    case = numbers["cases"][index]
    name, beta, smoothing = case["loss_type"], case["beta"], case["label_smoothing"]
    whole = of_trl(name, beta, smoothing)

    pairs, logits = pairs_of(tensors, torch.float64)
    loss = whole(pairs).mean()
    exact = 1e-7 if name == "exo_pair" else 1e-9
    assert loss.item() == near(case["loss_f64"], exact)
    loss.backward()
    assert logits.grad.norm().item() == near(case["grad_logits_l2_f64"], exact)

    pairs, logits = pairs_of(tensors, torch.float32)
    loss = whole(pairs).mean()
    assert loss.item() == near(case["loss_f32"], 1e-5)
    if beta == 0.1:
        loss.backward()
        expected = tensors[f"grad_logits_f32.{name}.ls{smoothing}"]
        assert expected.any()
        torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_rewards_as_trl(numbers, tensors):
    metrics = next(case["metrics"] for case in numbers["cases"] if case["beta"] == 0.1)
    pairs, _ = pairs_of(tensors, torch.float32)
    assert 0.1 * pairs.margins_B.mean().item() == near(metrics["rewards/margins"], 1e-5)
    assert (pairs.margins_B > 0).float().mean().item() == metrics["rewards/accuracies"]


def test_a_mixture_as_trl(numbers, tensors):
    pairs, _ = pairs_of(tensors, torch.float32)
    mixed = objective("0.8*sigmoid + 0.2*bco + sft(reduce=batch-mean)")
    assert mixed(pairs).mean().item() == near(numbers["mpo_sigmoid0.8_bco0.2_sft1.0"], 1e-5)


def test_single_pairs_as_trl(numbers):
    """Five pairs of which only sequence log-probabilities and lengths are known."""
    given_pairs = numbers["pairs"]
    policy, reference, lengths = (
        torch.tensor(given_pairs[key], dtype=torch.float64)
        for key in ("policy_logps_chosen_rejected", "reference_logps_chosen_rejected", "n_completion_tokens")
    )
    assert len(given_pairs["losses"]) == 24
    for key, expected in given_pairs["losses"].items():
        name, rest = key.split(".beta")
        beta, smoothing = map(float, rest.split(".ls"))
        whole = of_trl(name, beta, smoothing)
        ratios = (policy - reference) / (lengths if whole.terms[0].reading.reduce == "mean" else 1)
        found = whole.terms[0].losses([ratios[:, 0], ratios[:, 1]])
        exact = 1e-7 if name == "exo_pair" else 1e-9
        for one, other in zip(found.tolist(), expected, strict=True):
            assert one == near(other, exact), key


def test_anchor_by_hand():
    found = losses.anchor(torch.tensor([0.0, 10.0]), beta=0.1, delta=1.0)
    assert found.tolist() == pytest.approx([math.log(1 + math.e), math.log(2)])
    assert losses.nll(torch.tensor([-3.0])).tolist() == [3.0]


@given(ratio=RATIOS, beta=st.floats(0.01, 2), share=st.floats(0, 0.49))
def test_no_margin_is_log_2(ratio, beta, share):
    same = torch.tensor([ratio], dtype=torch.float64)
    for loss in (losses.sigmoid, losses.robust):
        assert loss(same, same, beta=beta, label_smoothing=share).item() == pytest.approx(math.log(2), rel=1e-12)
    assert losses.hinge(same, same, beta=beta).item() == 1.0


@pytest.mark.parametrize("loss", MARGIN)
@given(chosen=RATIOS, rejected=RATIOS, more=st.floats(0.01, 10), shift=RATIOS)
def test_a_wider_margin_is_better(loss, chosen, rejected, more, shift):
    """Without label smoothing the loss falls with the margin, and nothing but the margin matters."""
    none = {} if loss is losses.hinge else {"label_smoothing": 0.0}
    one, other = torch.tensor([[chosen], [rejected]], dtype=torch.float64)
    now, wider = loss(one, other, **none), loss(one + more, other, **none)
    assert wider < now or (loss is losses.hinge and 0.1 * (chosen - rejected) >= 1 and now == wider == 0)
    assert loss(one + shift, other + shift, **none).item() == pytest.approx(now.item(), abs=1e-9)


@given(chosen=RATIOS, rejected=RATIOS, beta=st.floats(0.01, 2), share=st.floats(0.01, 0.4))
def test_smoothed_losses_turn_where_the_labels_say(chosen, rejected, beta, share):
    """Conservative DPO and EXO are least where s(beta z) = 1 - e."""
    best = math.log((1 - share) / share) / beta
    rejected_B = torch.tensor([rejected], dtype=torch.float64)
    for loss in (losses.sigmoid, losses.exo):
        chosen_B = torch.tensor([rejected + best], dtype=torch.float64, requires_grad=True)
        least = loss(chosen_B, rejected_B, beta=beta, label_smoothing=share)
        (slope,) = torch.autograd.grad(least.sum(), chosen_B)
        assert slope.abs().item() < 1e-9
        there = loss(torch.tensor([chosen], dtype=torch.float64), rejected_B, beta=beta, label_smoothing=share)
        assert there.item() >= least.item() - 1e-9


@pytest.mark.parametrize("loss", PAIRED)
def test_gradients_are_true_and_extremes_finite(loss):
    draw = torch.Generator().manual_seed(1)
    ratios = (torch.randn(2, 5, generator=draw, dtype=torch.float64) * 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda both: loss(both[0], both[1], beta=0.7), (ratios,))
    far = torch.tensor([1e4, -1e4], requires_grad=True)
    value = loss(far, -far).sum()
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(far.grad).all()


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        ("sigmoid", {"beta": 0.0}, "beta is a number above 0, not 0"),
        ("hinge", {"beta": math.nan}, "beta is a number above 0, not nan"),
        ("sigmoid", {"label_smoothing": 0.5}, r"label_smoothing is at least 0 and below 0\.5, not 0\.5"),
        ("robust", {"label_smoothing": -0.1}, "label_smoothing is at least 0"),
        ("exo", {"label_smoothing": 0.0}, "label_smoothing is at least 1e-12"),
        ("anchor", {"delta": math.inf}, "delta is a finite number"),
    ],
)
def test_settings_out_of_range(loss, settings, message):
    with pytest.raises(VlmendError, match=message):
        Term(loss, settings=tuple(settings.items()))
