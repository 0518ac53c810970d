"""The same promises, kept for every family: batches, pictures, generation, prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmend import VLM, Example
from vlmend.models.trace import capture


@pytest.fixture
def examples(picture):
    return [
        Example("what colour is the cup ?", picture(1), "red"),
        Example("is there a dog ? say so", picture(2), "no , there is a cat"),
        Example("who wrote the song", None, "nobody"),
        Example("what colour is the cup and the bird ?", picture(1), "blue"),
    ]


def test_batch_equals_single_runs(vlm: VLM, examples):
    together = vlm.run(vlm.prepare(examples)).rows
    for example, row in zip(examples, together, strict=True):
        alone = vlm.run(vlm.prepare([example])).rows[0]
        assert torch.equal(row.target_N, alone.target_N)
        torch.testing.assert_close(row.logits_NV, alone.logits_NV, atol=2e-5, rtol=1e-4)


def test_generation_equals_forced_argmax(vlm: VLM, examples):
    """Cached batched generation says what repeated full forward passes say."""
    prepared = vlm.prepare(examples)
    texts = vlm.generate(prepared, max_new_tokens=5)
    for example, text in zip(examples, texts, strict=True):
        assert text == greedy_without_cache(vlm, example, 5)


def greedy_without_cache(vlm: VLM, example: Example, count: int) -> str:
    prepared = vlm.prepare([Example(example.question, example.image)])
    row = prepared.rows[0]
    tokens: list[int] = []
    for _ in range(count):
        target = torch.tensor([*tokens, 0])
        extended = type(prepared)((replace(row, target_N=target, answer_length=len(target)),), prepared.pictures)
        logits = vlm.run(extended).rows[0].logits_NV[-1]
        logits[vlm.parts.image_token] = -torch.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] == vlm.tokenizer.eos_token_id:
            break
    return vlm.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_pictures_matter_and_are_encoded_once(vlm: VLM, examples, picture):
    prepared = vlm.prepare(examples)
    keys = [row.picture for row in prepared.rows]
    asked = any(name.startswith("qformer") for name in prepared.pictures[keys[0]])  # the encoder reads the question too
    assert len(prepared.pictures) == (3 if asked else 2)
    assert (keys[0] == keys[3]) == (not asked)
    with capture({"vision": vlm.parts.vision}) as calls:
        first = vlm.run(prepared)
        vlm.generate(prepared, max_new_tokens=2)
        again = vlm.run(prepared)
    assert 1 <= len(calls) <= len(prepared.pictures)  # all at once, or one by one
    assert torch.equal(first.rows[0].logits_NV, again.rows[0].logits_NV)
    other = vlm.run(vlm.prepare([Example(examples[0].question, picture(9), "red")])).rows[0]
    assert not torch.allclose(other.logits_NV, first.rows[0].logits_NV, atol=1e-4)


def test_visual_positions(vlm: VLM, examples):
    for example, row in zip(examples, vlm.prepare(examples).rows, strict=True):
        assert row.visual_T.any() == (example.image is not None)
        assert torch.equal(row.visual_T, row.ids_T == vlm.parts.image_token)


def test_targets_end_the_turn(vlm: VLM, examples):
    for example, row in zip(examples, vlm.prepare(examples).rows, strict=True):
        assert vlm.tokenizer.decode(row.target_N[: row.answer_length]).strip() == example.answer
        assert row.target_N[row.answer_length :].tolist() == [vlm.tokenizer.eos_token_id]


def test_equals_the_plain_library_call(vlm: VLM, examples):
    """Logits are those of the model called as transformers' documentation says."""
    example = examples[0]
    row = vlm.prepare([example]).rows[0]
    plain = vlm.processor(images=[example.image], text=[row.prompt], return_tensors="pt", add_special_tokens=False)
    if vlm.tokenizer.bos_token_id in row.ids_T and plain["input_ids"][0, 0] != row.ids_T[0]:
        plain = vlm.processor(images=[example.image], text=[row.prompt], return_tensors="pt")
    with torch.no_grad():
        logits = vlm.model(**plain).logits[0, -1].float()
    torch.testing.assert_close(vlm.run(vlm.prepare([example])).rows[0].logits_NV[0], logits, atol=2e-5, rtol=1e-4)


def test_answer_asks_one_question(vlm: VLM, examples):
    expected = vlm.generate(vlm.prepare(examples[:1]), max_new_tokens=3)[0]
    assert vlm.answer(examples[0].image, examples[0].question, max_new_tokens=3) == expected


def test_a_checkpoints_own_sampling_is_left_out(vlm: VLM, examples, monkeypatch):
    """Answers are greedy, whatever a checkpoint's generation settings ask for."""
    prepared = vlm.prepare(examples)
    expected = vlm.generate(prepared, max_new_tokens=6)
    for model in {vlm.model, getattr(vlm.model, "language_model", vlm.model)}:
        own = type(vlm.model.generation_config)(
            do_sample=True, temperature=9.0, num_beams=3, no_repeat_ngram_size=1, repetition_penalty=3.0, min_length=99
        )
        monkeypatch.setattr(model, "generation_config", own)
    assert vlm.generate(prepared, max_new_tokens=6) == expected
