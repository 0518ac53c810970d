"""Rewordings: what has a flaw, templates, and a chat model in a folder."""

from __future__ import annotations

import random

import pytest

from tiny_models.painting import save_chat
from vlmend import Example
from vlmend.build.rewording import TEMPLATES, Reworder, Templates, flaw, repeated, stripped
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


@pytest.mark.parametrize(
    "reply",
    [
        "what is it ?",
        ' "what is it ?"\n',
        "<think>\nthe user wants\n</think>\n\nwhat is it ?",
        "the user wants this.</think> what is it ?",
        "<think></think> **what is it ?**",
        "**Reworded:** what is it ?",
        'Reworded question: "what is it ?"',
        "The rephrased question:\nwhat is it ?",
        "Question: \u201cwhat is it ?\u201d",
        "### Rephrased\uff1awhat is it ?",
        "\u300cwhat is it ?\u300d",
    ],
)
def test_what_is_around_a_rewording(reply):
    assert stripped(reply) == "what is it ?"


@pytest.mark.parametrize("reply", ['"red" or "blue" ?', "'s it red or 'blue'", "which ratio: 3:4 ?", "is it **red** ?"])
def test_what_is_part_of_a_rewording(reply):
    assert stripped(reply) == reply


def test_a_thought_without_an_end_is_no_rewording():
    assert flaw(ASKED, stripped("<think> how many dogs at 10, let me see"), free=True) == "empty"


REFUSED, TALK, STRANGE = "a refusal", "it talks of the rewording", "none of the question's words"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("at 10, what is the number of dogs?", None),
        ("count each dog that is there at 10", None),
        ("I cannot do that as an AI model.", REFUSED),
        ("I\u2019m sorry, but I can\u2019t count dogs at 10", REFUSED),
        ("As a large language model, I see no dogs at 10", REFUSED),
        ("Unfortunately there are no dogs at 10", REFUSED),
        ("Sure! Here is the reworded question: tell me, how many dogs are there at 10?", TALK),
        ("Of course, how many dogs at 10?", TALK),
        ("Here's a rephrased version of the question about dogs at 10", TALK),
        ("what is the weather like at 10 today?", STRANGE),
        ("The picture shows a thing at 10.", STRANGE),
        ("How many dogs are there at 10?", "the same words"),
        ("are there 3 dogs at 10?", "other numbers"),
        ("are there THREE of the dogs at 10?", "it gives the answer away"),
    ],
)
def test_flaws_of_whoever_says_what_it_likes(text, wrong):
    assert flaw(ASKED, text, free=True) == wrong


def test_templates_and_questions_that_begin_so_are_no_talk():
    assert flaw(Example("sure, is it red ?", None, "yes"), "sure, would you say it is red ?", free=True) is None
    assert flaw(ASKED, "Sure! Tell it to me: how many dogs are there at 10 ?") is None
    assert flaw(Example("describe the picture.", None, "a cat"), "what is shown here?", free=True) is None


@pytest.mark.parametrize(
    ("question", "answer", "text", "wrong"),
    [
        ("how many dogs ?", "6", "are there six dogs ?", "it gives the answer away"),
        ("how many dogs ?", "none", "is it that none of the dogs is there ?", "it gives the answer away"),
        ("这辆车是什么颜色？", "红色", "这辆车是红色的吗？", "it gives the answer away"),
        ("这辆车是什么颜色？", "红色", "请问车的颜色是哪一种？", None),
        ("这辆车是什么颜色？", "红色", "今天天气怎么样？", STRANGE),
        ("車は何色ですか", "赤", "その車は赤いですか", "it gives the answer away"),
        ("車は何色ですか", "赤", "車の色を教えてください", None),
        ("รถสีอะไร", "แดง", "รถสีแดงใช่ไหม", "it gives the answer away"),
        ("차는 무슨 색인가요", "빨간색", "차는 빨간색인가요", "it gives the answer away"),
        ("what is on the cat ?", "hat", "what does that cat have on ?", None),
    ],
)
def test_answers_given_away_in_any_script(question, answer, text, wrong):
    assert flaw(Example(question, None, answer), text, free=True) == wrong


def test_one_text_for_several_questions():
    pairs = [("what is it ?", "Say it."), ("where is it ?", "say it"), ("who is it ?", "tell"), ("Who is it?", "tell")]
    assert repeated(pairs) == {"say it"}


def test_an_answer_that_is_in_the_question_is_not_given_away():
    assert flaw(Example("is it red or blue ?", None, "red"), "say whether it is red or blue") is None


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_templates(kind):
    texts = set(Templates(kind).reworded([ASKED.question] * 40, [random.Random(seed) for seed in range(40)]))
    assert len(texts) > 5
    assert texts <= {one.format(question=ASKED.question) for one in TEMPLATES[kind]}
    if kind == "vqa":
        assert all(flaw(ASKED, text) is None for text in texts)


def test_chat_model_in_a_folder(tmp_path):
    save_chat(tmp_path / "chat")
    chat = Reworder(FolderChat(str(tmp_path / "chat"), max_new_tokens=4))
    one, again, other = chat.reworded(["what colour is it ?"] * 3, [random.Random(seed) for seed in (1, 1, 2)])
    assert one == again
    assert one != other
    chat.check()
    with pytest.raises(VlmendError, match="holds no chat model"):
        Reworder(FolderChat(str(tmp_path))).check()
    (tmp_path / "chat" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(VlmendError, match="holds no chat model"):
        Reworder(FolderChat(str(tmp_path / "chat"))).check()
