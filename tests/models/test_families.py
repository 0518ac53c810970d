"""The same promises, kept for every family: batches, pictures, generation, prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import CROSSING, FAMILIES, left_alone
from vlmend import VLM, Example
from vlmend.errors import PromptError
from vlmend.models.pictures import content_hash
from vlmend.models.prepared import Row
from vlmend.models.trace import capture


@pytest.fixture(params=(*FAMILIES, *CROSSING))
def vlm(request, tiny):
    """A loaded model of every family in turn, those without visual tokens too; checked to be left as it was."""
    yield from left_alone(tiny(request.param))


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
        logits[vlm.parts.image_token : vlm.parts.image_token + 1] = -torch.inf  # Mllama has none for it
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
        if vlm.parts.in_stream:  # else generation takes pixels only
            vlm.generate(prepared, max_new_tokens=2)
        again = vlm.run(prepared)
    # All at once, one by one, or one by one after all at once in vain (Idefics3 in transformers 5.20).
    assert 1 <= len(calls) <= len(prepared.pictures) + 1
    assert torch.equal(first.rows[0].logits_NV, again.rows[0].logits_NV)
    other = vlm.run(vlm.prepare([Example(examples[0].question, picture(9), "red")])).rows[0]
    assert not torch.allclose(other.logits_NV, first.rows[0].logits_NV, atol=1e-4)


def test_visual_positions(vlm: VLM, examples):
    for example, row in zip(examples, vlm.prepare(examples).rows, strict=True):
        marked_T = row.ids_T == vlm.parts.image_token
        assert marked_T.any() == (example.image is not None)
        assert torch.equal(row.visual_T, marked_T & vlm.parts.in_stream)


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


def test_loss_is_that_of_labels(vlm: VLM, examples):
    """Mean cross-entropy at the targets is the loss that the model computes when it is given labels and pixels."""
    prepared = vlm.prepare(examples[:1])
    row = prepared.rows[0]
    mine = vlm.run(prepared).rows[0]
    loss = torch.nn.functional.cross_entropy(mine.logits_NV, mine.target_N)
    plain = vlm._preparer.batch([row], with_targets=True)
    labels = torch.cat([torch.full_like(row.ids_T, -100), row.target_N])[None]
    with torch.no_grad():
        theirs = vlm.model(
            input_ids=plain.ids_BT,
            attention_mask=plain.mask_BT,
            labels=labels,
            **plain.extras,
            **prepared.pictures[row.picture],
        ).loss
    torch.testing.assert_close(loss, theirs, atol=2e-5, rtol=1e-4)


def test_gradients_reach_the_decoder_and_the_picture(vlm: VLM, examples):
    watched = [
        next(iter(vlm.parts.modules("late", ["mlp.down"]).values())).weight,
        next(iter(vlm.parts.connector.parameters())),
    ]
    for parameter in watched:
        parameter.requires_grad_(True)
    try:
        output = vlm.run(vlm.prepare(examples), grad=True).rows
        loss = sum(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N) for row in output)
        gradients = torch.autograd.grad(loss, watched)
    finally:
        for parameter in watched:
            parameter.requires_grad_(False)
    assert all(float(gradient.abs().max()) > 1e-6 for gradient in gradients)


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


SEVERAL = [
    "what colour is the cup ?",
    "what is in <image> and what in <image> ?",
    "<image> is there a dog ? <image>",
]


def takes_several(vlm: VLM) -> bool:
    return vlm._preparer.traits.several


def test_who_takes_several_pictures(tiny):
    assert {name for name in FAMILIES if not takes_several(tiny(name))} == {"blip2", "blip2_llama", "instructblip"}


@pytest.mark.parametrize("question", SEVERAL)
def test_several_pictures(vlm: VLM, picture, question):
    """Each picture is seen where it stands, in its order; batches with other rows change nothing."""
    one, other = picture(1), picture(2, (60, 30))
    example = Example(question, (one, other), "red")
    if not takes_several(vlm):
        with pytest.raises(PromptError, match="takes one picture with a question, not 2"):
            vlm.prepare([example])
        return
    row = vlm.prepare([example]).rows[0]
    assert row.pictures == (content_hash(one), content_hash(other))
    assert row.sizes == ((44, 36), (60, 30))
    examples = [example, Example("who wrote the song", None, "nobody"), Example("what ?", other, "red"), example]
    together = vlm.run(vlm.prepare(examples)).rows
    alone = [vlm.run(vlm.prepare([one])).rows[0] for one in examples]
    for mine, single in zip(together, alone, strict=True):
        torch.testing.assert_close(mine.logits_NV, single.logits_NV, atol=2e-5, rtol=1e-4)
    turned = vlm.run(vlm.prepare([Example(question, (other, one), "red")])).rows[0]
    assert not torch.allclose(turned.logits_NV, alone[0].logits_NV, atol=1e-4)
    assert vlm.generate(vlm.prepare([example]), max_new_tokens=4)[0] == greedy_without_cache(vlm, example, 4)


def test_places_of_pictures(vlm: VLM, picture):
    """Words before, between and after the pictures' tokens are those of the question."""
    if not takes_several(vlm):
        pytest.skip("takes one picture")
    row = vlm.prepare([Example("red <image> blue <image> bird", (picture(1), picture(2)))]).rows[0]
    words = vlm.tokenizer.decode(torch.where(row.ids_T == vlm.parts.image_token, vlm.tokenizer.unk_token_id, row.ids_T))
    places = [words.index(word) for word in ("red", "blue", "bird")]
    unknown = [index for index in range(len(words)) if words.startswith(vlm.tokenizer.unk_token, index)]
    assert any(places[0] < place < places[1] for place in unknown)
    assert any(places[1] < place < places[2] for place in unknown)
    assert all(places[0] < place < places[2] for place in unknown)


def test_equals_the_plain_call_with_several_pictures(vlm: VLM, picture):
    if not takes_several(vlm):
        pytest.skip("takes one picture")
    pictures = [picture(1), picture(2, (60, 30))]
    prepared = vlm.prepare([Example("what is in <image> and in <image> ?", tuple(pictures), "red")])
    row = prepared.rows[0]
    opens = row.prompt.startswith(vlm.tokenizer.bos_token)
    plain = vlm.processor(images=[pictures], text=[row.prompt], return_tensors="pt", add_special_tokens=not opens)
    with torch.no_grad():
        logits = vlm.model(**plain).logits[0, -1].float()
    torch.testing.assert_close(vlm.run(prepared).rows[0].logits_NV[0], logits, atol=2e-5, rtol=1e-4)


def test_the_place_of_the_only_picture(vlm: VLM, picture):
    """At the front is the same as no marker; elsewhere is another prompt, or refused in clear words."""
    plain, front = vlm.prepare([Example("what ?", picture(1)), Example("<image>what ?", picture(1))]).rows
    if vlm._preparer.traits.mark:
        behind = vlm.prepare([Example("what <image> ?", picture(1))]).rows[0]
        assert marks(vlm, behind) == marks(vlm, plain)
        assert behind.prompt != plain.prompt
    else:
        with pytest.raises(PromptError, match="before the question"):
            vlm.prepare([Example("what <image> ?", picture(1))])
    assert marks(vlm, front) == marks(vlm, plain) > 0


def marks(vlm: VLM, row: Row) -> int:
    return int((row.ids_T == vlm.parts.image_token).sum())
