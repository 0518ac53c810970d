"""Rewordings: what has a flaw, templates, a real endpoint on loopback, and a chat model in a folder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_models.base import tokenizer
from vlmend import Example
from vlmend.build.rewording import TEMPLATES, Endpoint, LocalChat, Templates, flaw
from vlmend.errors import VlmendError

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


class Server(BaseHTTPRequestHandler):
    """Speaks what it is told to: a status and a body each."""

    replies: list[tuple[int, str]] = []
    asked: list[dict] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Server.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        status, text = Server.replies.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Server.asked.clear()
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def said(text: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def test_endpoint(url, monkeypatch):
    """After an error of the server it is asked again; the key goes along, and the record's own seed."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    Server.replies = [(500, "busy"), (200, said(" count the dogs at 10 "))]
    assert Endpoint(url, "mine", wait=0.01).reworded(ASKED.question, random.Random(1)) == "count the dogs at 10"
    first, second = Server.asked
    assert first == second
    assert (first["path"], first["model"], first["key"]) == ("/v1/chat/completions", "mine", "Bearer secret")
    assert ASKED.question in first["messages"][0]["content"]


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        ([(200, "no json")], "replies what is no JSON"),
        ([(200, '{"error": "x"}')], "no chat completion"),
        ([(401, "who are you")], "refuses: HTTP 401"),
        ([(503, "busy")] * 3, "refuses: HTTP 503"),
    ],
)
def test_endpoint_that_fails(url, replies, problem):
    Server.replies = list(replies)
    with pytest.raises(VlmendError, match=problem):
        Endpoint(url, wait=0.01).reworded(ASKED.question, random.Random(0))
    assert not Server.replies


def test_nobody_there():
    with pytest.raises(VlmendError, match="cannot be reached"):
        Endpoint("http://127.0.0.1:9", wait=0.01, timeout=1).reworded("what ?", random.Random(0))


def test_chat_model_in_a_folder(tmp_path):
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "chat")
    words.save_pretrained(tmp_path / "chat")
    chat = LocalChat(str(tmp_path / "chat"), max_new_tokens=4)
    one, again, other = (chat.reworded("what colour is it ?", random.Random(seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    with pytest.raises(VlmendError, match="holds no chat model"):
        LocalChat(str(tmp_path)).reworded("what ?", random.Random(0))
