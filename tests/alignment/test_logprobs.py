"""Log-probabilities of answers: TRL's of the same logits, whatever stands around the answer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from vlmend.alignment.logprobs import answer_mask, check_answers, span_labels, target_log_probs, token_log_probs
from vlmend.errors import VlmendError

END = 2


@pytest.fixture(scope="module")
def golden(fixtures):
    return load_file(fixtures / "trl_dpo.safetensors")


@pytest.mark.parametrize("which", ["", "ref_"])
def test_as_trl(golden, which):
    found = token_log_probs(golden[f"{which}logits"], golden["input_ids"], golden["completion_mask"])
    assert found.shape == golden["input_ids"].shape
    torch.testing.assert_close(found[:, 1:], golden[f"{which}per_token_logps"], rtol=0, atol=1e-5)
    sums = golden[f"{which}seq_logps"]
    torch.testing.assert_close(found.sum(-1), sums, rtol=0, atol=1e-5 * float(sums.abs().max()))
    assert not found[:, 0].any()


def test_by_hand():
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    found = target_log_probs(logits, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([-0.6931471805599453, -2.1269280110429727])


@settings(max_examples=20)
@given(before=st.integers(0, 3), after=st.integers(0, 3), seed=st.integers(0, 99))
def test_padding_on_either_side_changes_nothing(before, after, seed):
    draw = torch.Generator().manual_seed(seed)
    logits, ids = torch.randn(2, 6, 5, generator=draw), torch.randint(0, 5, (2, 6), generator=draw)
    starts, lengths = torch.tensor([2, 4]), torch.tensor([3, 2])
    plain = token_log_probs(logits, ids, answer_mask(starts, lengths, 6))

    rubbish = logits.new_full((2, 1, 5), torch.nan)
    wide = torch.cat([rubbish.expand(2, before, 5), logits, rubbish.expand(2, after, 5)], 1).requires_grad_()
    padded = torch.nn.functional.pad(ids, (before, after))
    found = token_log_probs(wide, padded, answer_mask(starts + before, lengths, 6 + before + after))
    assert torch.equal(found[:, before : before + 6], plain)
    assert int((found != 0).sum()) == 5
    found.sum().backward()
    touched = (wide.grad != 0).any(-1)
    assert torch.equal(touched, torch.roll(found != 0, -1, 1))  # only what predicts an answer's token


def test_half_precision_is_widened():
    logits = torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids, mask = torch.tensor([[1, 3, 5, 2]]), torch.tensor([[0, 0, 1, 1]])
    assert token_log_probs(logits, ids, mask).dtype == torch.float32
    exact = token_log_probs(logits.double(), ids, mask)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(token_log_probs(logits, ids, mask).double(), exact, rtol=0, atol=1e-6)


def test_the_mask_covers_the_answer_and_its_end():
    mask = answer_mask(torch.tensor([2, 3]), torch.tensor([3, 1]), 6)
    assert mask.int().tolist() == [[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0]]
    check_answers(torch.tensor([[7, 7, 5, 6, END, 0], [0, 7, 7, END, 0, 0]]), mask, {END})


@pytest.mark.parametrize(
    ("starts", "lengths", "message"),
    [([1, 1], [2, 0], "row 1: the answer has no tokens"), ([3, 1], [2, 2], "row 0: the answer is cut off at 4 tokens")],
)
def test_answers_that_cannot_be_masked(starts, lengths, message):
    with pytest.raises(VlmendError, match=message):
        answer_mask(torch.tensor(starts), torch.tensor(lengths), 4)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([0, 0, 0, 0], "no token of an answer counts"),
        ([1, 1, 1, 1], "begins at the first token"),
        ([0, 1, 0, 1], "not in one piece"),
        ([0, 1, 1, 0], "last token, 6, does not end it"),
    ],
)
def test_masks_that_are_wrong(mask, message):
    ids = torch.tensor([[7, 5, 6, END], [7, 5, 6, END]])
    with pytest.raises(VlmendError, match=f"row 1: .*{message}"):
        check_answers(ids, torch.tensor([[0, 1, 1, 1], mask]), {END})


def test_an_answer_before_any_prompt():
    with pytest.raises(VlmendError, match=r"row 1: .*before any prompt"):
        token_log_probs(torch.zeros(2, 2, 3), torch.zeros(2, 2, dtype=torch.long), torch.tensor([[0, 1], [1, 1]]))


def test_tokens_in_spans():
    offsets = [(0, 1), (1, 5), (5, 9), (9, 9)]  # a| red| cup|<end>
    assert span_labels(offsets, [(2, 5)]).tolist() == [False, True, False, False]
    assert span_labels(offsets, [(4, 6), (0, 1)]).tolist() == [True, True, True, False]
    assert span_labels(offsets, [(5, 5)]).tolist() == [False] * 4
    assert span_labels(offsets, []).tolist() == [False] * 4
