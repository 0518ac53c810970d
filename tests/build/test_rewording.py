"""Rewordings: what has a flaw, templates, and a chat model in a folder."""

from __future__ import annotations

import random

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_models.base import tokenizer
from vlmend import Example
from vlmend.build.rewording import TEMPLATES, Reworder, Templates, flaw
from vlmend.errors import VlmendError
from vlmend.models.chat import FolderChat

ASKED = Example("how many dogs are there at 10 ?", None, "three", ("3",))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("count the dogs that are there at 10", None),
        ("", "empty"),
        ("one\ntwo", "more than a line"),
        ("How many dogs are there at 10?", "the same words"),
        ("count the dogs at 11", "other numbers"),
        ("are there three dogs at 10?", "it gives the answer away"),
        ("<image> count the dogs at 10", "it marks a picture"),
        ("count " * 60 + "at 10", "too long"),
        (None, "a reply without a text"),
        ("count the dogs \ud800 at 10", "it has characters that are no text"),
    ],
)
def test_flaws(text, wrong):
    assert flaw(ASKED, text) == wrong


def test_an_answer_that_is_in_the_question_is_not_given_away():
    assert flaw(Example("is it red or blue ?", None, "red"), "say whether it is red or blue") is None


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_templates(kind):
    texts = {Templates(kind).reworded(ASKED.question, random.Random(seed)) for seed in range(40)}
    assert len(texts) > 5
    assert texts <= {one.format(question=ASKED.question) for one in TEMPLATES[kind]}
    if kind == "vqa":
        assert all(flaw(ASKED, text) is None for text in texts)


def test_chat_model_in_a_folder(tmp_path):
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "chat")
    words.save_pretrained(tmp_path / "chat")
    chat = Reworder(FolderChat(str(tmp_path / "chat"), max_new_tokens=4))
    one, again, other = (chat.reworded("what colour is it ?", random.Random(seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    chat.check()
    with pytest.raises(VlmendError, match="holds no chat model"):
        Reworder(FolderChat(str(tmp_path))).check()
    (tmp_path / "chat" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(VlmendError, match="holds no chat model"):
        Reworder(FolderChat(str(tmp_path / "chat"))).check()
