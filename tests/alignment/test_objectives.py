"""Objectives: sums of losses, read from answers whose padding and labels mean what they say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmend.alignment.answers import REDUCTIONS, Answers, Pairs, Reading
from vlmend.alignment.objectives import LOSSES, Objective, Term
from vlmend.alignment.recipes import OBJECTIVES, objective
from vlmend.errors import UnknownNameError, VlmendError

SEEDS = st.integers(0, 10_000)
WEIGHTS = st.floats(0, 10)
NAMES = st.sampled_from(sorted(LOSSES))
SINGLE = {name: objective(name) for name in LOSSES}
FEW = settings(max_examples=10)  # each runs many losses


def answers(seed: int, *, rows: int = 3, width: int = 7, dtype: torch.dtype = torch.float64) -> Answers:
    """Random answers of one to five tokens with a label on some tokens; what is no answer holds rubbish."""
    draw = torch.Generator().manual_seed(seed)
    starts, lengths = torch.randint(1, 3, (rows, 1), generator=draw), torch.randint(1, 6, (rows, 1), generator=draw)
    places = torch.arange(width)
    mask = (places >= starts) & (places < starts + lengths)
    policy, reference = -5 * torch.rand(2, rows, width, generator=draw, dtype=dtype)
    spans = torch.rand(rows, width, generator=draw) < 0.5
    return Answers(policy.masked_fill(~mask, -torch.inf), mask, reference.masked_fill(~mask, torch.nan), spans)


def pairs(seed: int) -> Pairs:
    return Pairs(answers(seed), answers(seed + 1), answers(seed + 2))


def padded(one: Answers, before: int, after: int) -> Answers:
    def pad(tensor, value):
        return torch.nn.functional.pad(tensor, (before, after), value=value)

    return Answers(
        pad(one.policy_BT, torch.nan), pad(one.mask_BT, False), pad(one.reference_BT, 7.0), pad(one.spans_BT, True)
    )


def relabelled(one: Pairs, spans_of) -> Pairs:
    sides = (one.chosen, one.rejected, one.weakened)
    return Pairs(*(Answers(side.policy_BT, side.mask_BT, side.reference_BT, spans_of(side)) for side in sides))


def test_read_by_hand():
    one = Answers(
        policy_BT=torch.tensor([[9.0, -1.0, -2.0, -4.0]]),
        mask_BT=torch.tensor([[0, 1, 1, 1]]),
        reference_BT=torch.tensor([[9.0, -1.5, -1.0, -8.0]]),
        spans_BT=torch.tensor([[1, 0, 1, 0]]),
    )
    assert one.log_probs(Reading()).tolist() == [-7.0]
    assert one.log_ratios(Reading()).tolist() == [3.5]
    assert one.log_ratios(Reading("mean")).item() == pytest.approx(3.5 / 3)
    assert one.log_ratios(Reading("mean", span_weight=3.0)).item() == pytest.approx((0.5 - 3.0 + 4.0) / 5)
    assert one.log_ratios(Reading(other_weight=0.0)).tolist() == [-1.0]
    two = Answers(torch.tensor([[-2.0, -2.0], [-6.0, 0.0]]), torch.tensor([[1, 1], [1, 0]]))
    assert two.log_probs(Reading("batch-mean")).tolist() == pytest.approx([-4 / 1.5, -6 / 1.5])


@FEW
@given(seed=SEEDS, before=st.integers(0, 3), after=st.integers(0, 3))
def test_padding_changes_nothing(seed, before, after):
    plain = pairs(seed)
    wide = Pairs(*(padded(plain.side(side), before, after) for side in ("chosen", "rejected", "weakened")))
    for name, whole in SINGLE.items():
        torch.testing.assert_close(whole(wide), whole(plain), rtol=1e-12, atol=1e-12, msg=name)


@FEW
@given(seed=SEEDS, weight=st.floats(0.1, 5))
def test_equal_weights_are_no_weights(seed, weight):
    """Spans of weight 1 give the plain loss; in a mean any weight does that all tokens share."""
    one = pairs(seed)
    bare = relabelled(one, lambda _: None)
    everywhere = relabelled(one, lambda side: torch.ones_like(side.mask_BT))
    for name, whole in SINGLE.items():
        assert torch.equal(objective(name, span_weight=1.0)(one), whole(bare)), name
        # labelled all over and weighted there, so that the labels are read and the weight cancels
        weighted = objective(name, reduce="mean", span_weight=weight, other_weight=0.0)(everywhere)
        plain = objective(name, reduce="mean")(bare)
        torch.testing.assert_close(weighted, plain, rtol=1e-10, atol=1e-10, msg=name)


@FEW
@given(seed=SEEDS, weight=st.floats(1.5, 5))
def test_weights_count_only_where_labels_are(seed, weight):
    one = answers(seed)
    labelled, ratios = one.mask_BT & one.spans_BT, one.policy_BT - one.reference_BT
    more = one.log_ratios(Reading(span_weight=weight)) - one.log_ratios(Reading())
    expected = (weight - 1) * ratios.masked_fill(~labelled, 0.0).sum(-1)
    torch.testing.assert_close(more, expected, rtol=1e-9, atol=1e-9)


def test_an_answer_without_labels_weighs_nothing():
    one = Answers(*(torch.full((1, 2), value, requires_grad=value < 0) for value in (-1.0, 1.0, -2.0, 0.0)))
    number = one.log_ratios(Reading("mean", other_weight=0.0))
    number.sum().backward()
    assert number.item() == 0.0
    assert not one.policy_BT.grad.any()


@FEW
@given(st.lists(st.tuples(NAMES, WEIGHTS), min_size=1, max_size=4), SEEDS)
def test_a_sum_is_the_sum_of_its_parts(terms, seed):
    """Value and gradient, whichever way the sum is written."""
    plain, values, slopes = pairs(seed), [], []
    single = [(weight, objective(name)) for name, weight in terms]
    in_text = " + ".join(f"{weight}*{name}" for name, weight in terms)
    in_python = single[0][0] * single[0][1]
    for weight, part in single[1:]:
        in_python = in_python + weight * part

    def measure(whole):
        policy = plain.chosen.policy_BT.clone().requires_grad_()
        chosen = Answers(policy, plain.chosen.mask_BT, plain.chosen.reference_BT, plain.chosen.spans_BT)
        value = whole(Pairs(chosen, plain.rejected, plain.weakened))
        return value, torch.autograd.grad(value.sum(), policy)[0]

    for weight, part in single:
        value, slope = measure(part)
        values.append(weight * value)
        slopes.append(weight * slope)
    for whole in (objective(in_text), in_python):
        value, slope = measure(whole)
        torch.testing.assert_close(value, sum(values), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(slope, sum(slopes), rtol=1e-10, atol=1e-10)
        for one, other in zip(whole.parts(plain), values, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert objective(in_text) == in_python


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_at_the_reference(name):
    """Before the first step the margin is exactly 0, the losses are what they are at 0, and there is a gradient."""
    same = [answers(seed, dtype=torch.float32) for seed in (5, 6, 7)]
    policies = [one.policy_BT.clone().requires_grad_() for one in same]
    first = Pairs(*(Answers(policy, a.mask_BT, a.policy_BT.clone()) for policy, a in zip(policies, same, strict=True)))
    assert torch.equal(first.margins_B, torch.zeros(3))
    whole = objective(name)
    losses = whole(first)
    if LOSSES[name].reference:
        at_zero = whole.terms[0].losses([torch.zeros(3) for _ in LOSSES[name].sides])
        torch.testing.assert_close(losses, at_zero)
    losses.mean().backward()
    slopes = [policy.grad for policy in policies if policy.grad is not None]
    assert len(slopes) == len(LOSSES[name].sides)
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
    assert max(float(slope.abs().max()) for slope in slopes) > 0  # of APO-down, through the rejected answer alone


def test_the_losses_of_the_papers():
    """BPO is plain DPO; mDPO adds the image side and the anchor; lengths count where they should."""
    one = pairs(11)
    ratio = {side: one.side(side).log_ratios(Reading()) for side in ("chosen", "rejected", "weakened")}

    def log_sigmoid(value):
        return torch.log(torch.sigmoid(value))

    dpo = -log_sigmoid(0.1 * (ratio["chosen"] - ratio["rejected"]))
    image = -log_sigmoid(0.1 * (ratio["chosen"] - ratio["weakened"]))
    anchor = -log_sigmoid(0.1 * ratio["chosen"])
    torch.testing.assert_close(objective("bpo")(one), dpo)
    torch.testing.assert_close(objective("mdpo")(one), dpo + image + anchor)
    nll = -one.chosen.log_probs(Reading()) / one.chosen.mask_BT.sum(-1)
    torch.testing.assert_close(objective("sft")(one), nll)
    summed = ratio["chosen"] - ratio["rejected"]
    torch.testing.assert_close(objective("ipo", reduce="sum")(one), (summed - 5) ** 2)


def test_only_what_is_read_must_be_there():
    sft, bpo, mdpo = objective("sft"), objective("bpo"), objective("mdpo")
    assert (sft.sides, sft.needs_reference, sft.needs_spans) == ({"chosen"}, False, False)
    assert (bpo.sides, bpo.needs_reference) == ({"chosen", "rejected"}, True)
    assert mdpo.sides == {"chosen", "rejected", "weakened"}
    assert objective("sigmoid + sigmoid(span_weight=2)").needs_spans
    one = answers(3)
    bare = Answers(one.policy_BT, one.mask_BT)
    assert sft(Pairs(bare)).shape == (3,)
    for whole, there, missing in (
        (bpo, Pairs(one), "reads the rejected answers"),
        (mdpo, Pairs(one, one), "reads the weakened answers"),
        (bpo, Pairs(bare, bare), "no reference_BT"),
        (objective("sft", span_weight=2), Pairs(bare), "no spans_BT"),
    ):
        with pytest.raises(VlmendError, match=missing):
            whole(there)


def test_shapes_that_do_not_fit():
    with pytest.raises(VlmendError, match=r"mask_BT is \(2, 3\), but policy_BT \(2, 4\)"):
        Answers(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(VlmendError, match="3 chosen answers, but 2 rejected ones"):
        Pairs(answers(0), answers(0, rows=2))


@FEW
@given(
    st.lists(st.tuples(NAMES, WEIGHTS, st.sampled_from(sorted(REDUCTIONS)), st.floats(0.1, 9)), min_size=1, max_size=3)
)
def test_written_and_read_again(terms):
    whole = Objective(
        tuple(Term(name, weight, (("reduce", how), ("span_weight", span))) for name, weight, how, span in terms)
    )
    assert objective(str(whole)) == whole


def test_settings_go_where_they_are_known():
    assert str(objective("mdpo", beta=0.2)) == "sigmoid(beta=0.2) + image(beta=0.2) + anchor(beta=0.2)"
    assert str(objective("2*mdpo(delta=1)")) == "2.0*sigmoid + 2.0*image + 2.0*anchor(delta=1.0)"
    assert str(objective("sigmoid(beta=0.5) + hinge", beta=0.2)) == "sigmoid(beta=0.5) + hinge(beta=0.2)"
    assert str(objective(" .5 *  bpo( ) +1e-2*sft ")) == "0.5*sigmoid + 0.01*sft"
    for name in OBJECTIVES:
        assert objective(name).terms


@pytest.mark.parametrize(
    ("text", "given_settings", "error", "message"),
    [
        ("dop", {}, UnknownNameError, "no objective named 'dop'; there are: anchor, apo-down"),
        ("sft", {"beta": 0.1}, UnknownNameError, "no setting of objective 'sft' named 'beta'"),
        ("mdpo(gamma=1)", {}, UnknownNameError, "named 'gamma'"),
        ("sigmoid + ", {}, VlmendError, "lacks an objective after the '\\+'"),
        ("", {}, VlmendError, "objective '' is not understood"),
        ("sigmoid - sft", {}, VlmendError, "not understood from 'sigmoid - sft' on"),
        ("-1*sft", {}, VlmendError, r"not understood from '-1\*sft' on"),
        ("sigmoid(0.1)", {}, VlmendError, "'0.1' is not of the form setting=value"),
        ("sigmoid(beta=high)", {}, VlmendError, "'beta' of loss 'sigmoid' is a number, not 'high'"),
        ("sigmoid(reduce=1)", {}, VlmendError, r"'reduce' of loss 'sigmoid' is a word, not 1\.0"),
        ("sigmoid(reduce=max)", {}, UnknownNameError, "no reduction named 'max'; there are: batch-mean, mean, sum"),
        ("sigmoid(span_weight=0, other_weight=0)", {}, VlmendError, "not both 0"),
        ("sigmoid(span_weight=-1)", {}, VlmendError, "at least 0"),
    ],
)
def test_what_cannot_be_an_objective(text, given_settings, error, message):
    with pytest.raises(error, match=message) as raised:
        objective(text, **given_settings)
    assert "\n" not in str(raised.value)


def test_terms_that_cannot_be():
    with pytest.raises(UnknownNameError, match="no loss named 'bpo'"):
        Term("bpo")
    for weight in (-1.0, math.inf, math.nan):
        with pytest.raises(VlmendError, match="the weight of 'sft' is at least 0"):
            Term("sft", weight)
    with pytest.raises(VlmendError, match="needs a term"):
        Objective(())
