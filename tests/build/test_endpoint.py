"""The endpoint that rewords, a real one on loopback: what it replies, where the key goes, and where it does not."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from vlmend import Example
from vlmend.build.rewording import Reworder, flaw
from vlmend.errors import VlmendError
from vlmend.models.chat import EndpointChat

ASKED = Example("how many dogs are there at 10 ?", None, "three", ("3",))


class Server(BaseHTTPRequestHandler):
    """Speaks what it is told to: a status and a body each."""

    replies: list[tuple[int, str]] = []
    asked: list[dict] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Server.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        status, text = Server.replies.pop(0)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", text)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        Server.asked.append({"path": self.path, "key": self.headers.get("Authorization")})
        self.send_response(200)
        self.end_headers()

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


def by(url: str, model: str = "default", *, wait: float = 0.01, timeout: float = 5.0) -> Reworder:
    return Reworder(EndpointChat(url, model, wait=wait, timeout=timeout))


def said(text: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def test_endpoint(url, monkeypatch):
    """After an error of the server it is asked again; the key goes along, and the record's own seed."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    Server.replies = [(500, "busy"), (200, said(" count the dogs at 10 "))]
    assert by(url, "mine").reworded(ASKED.question, random.Random(1)) == "count the dogs at 10"
    first, second = Server.asked
    assert first == second
    assert (first["path"], first["model"], first["key"]) == ("/v1/chat/completions", "mine", "Bearer secret")
    assert ASKED.question in first["messages"][0]["content"]


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        ([(401, "who are you")], "refuses: HTTP 401"),
        ([(503, "busy")] * 3, "refuses: HTTP 503"),
    ],
)
def test_endpoint_that_fails(url, replies, problem):
    Server.replies = list(replies)
    with pytest.raises(VlmendError, match=problem):
        by(url).reworded(ASKED.question, random.Random(0))
    assert not Server.replies


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (json.dumps({"choices": [{"message": {"role": "assistant", "content": None}}]}), "a reply without a text"),
        (json.dumps({"choices": [{"message": {"content": [{"text": "a"}]}}]}), "a reply without a text"),
        ('{"choices": []}', "a reply without a text"),
        ('{"error": "x"}', "a reply without a text"),
        ("no json", "a reply without a text"),
        ("", "a reply without a text"),
        ("[" * 100_000, "a reply without a text"),
        (said("  "), "empty"),
    ],
)
def test_replies_that_are_no_rewording(url, reply, why):
    Server.replies = [(200, reply)]
    assert flaw(ASKED, by(url).reworded(ASKED.question, random.Random(0))) == why


def test_checked_before_the_long_work(url, monkeypatch):
    """A null is a reply yet; what is no chat completion comes from something else, and is shown without the key."""
    monkeypatch.setenv("OPENAI_API_KEY", "hush-hush")
    Server.replies = [(200, json.dumps({"choices": [{"message": {"content": None}}]}))]
    by(url).check()
    for text, what in (("<html>", "no JSON"), ('{"error": "wrong key hush-hush"}', "no chat completion")):
        Server.replies = [(200, text)]
        with pytest.raises(VlmendError, match=what) as found:
            by(url).check()
        assert "hush-hush" not in str(found.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(url, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    Server.replies = [(status, f"{url}/elsewhere?api_key=other")]
    with pytest.raises(VlmendError, match=r"redirects to .* not followed") as found:
        by(url).reworded(ASKED.question, random.Random(0))
    assert [one["path"] for one in Server.asked] == ["/v1/chat/completions"]
    assert "api_key" not in str(found.value)


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("https://me:hush@host/v1", "name and password"),
        ("https://hush@host/v1", "name and password"),
        ("https://host/v1?api_key=hush", "ends before any"),
        ("https://host/v1#hush", "ends before any"),
        ("ftp://host/hush", "begins with http"),
        ("https:///hush", "begins with http"),
        ("https://[hush/v1", "cannot be read"),
        ("https://host:hush/v1", "cannot be read"),
        ("https://host/v1 hush", "white space"),
    ],
)
def test_urls_that_carry_secrets_are_refused_and_not_repeated(named, problem):
    with pytest.raises(VlmendError, match=problem) as found:
        by(named)
    assert "hush" not in str(found.value)


@pytest.mark.parametrize("key", ["hush\x00hush", "hüsh"])
def test_a_key_that_no_header_carries_is_not_repeated(url, monkeypatch, key):
    with pytest.raises(VlmendError, match="OPENAI_API_KEY holds what is no key") as found:
        if "\0" in key:  # no environment holds it
            monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": key})
        else:
            monkeypatch.setenv("OPENAI_API_KEY", key)
        by(url).reworded(ASKED.question, random.Random(0))
    assert key not in str(found.value)


def test_nobody_there():
    with pytest.raises(VlmendError, match="cannot be reached"):
        by("http://127.0.0.1:9", timeout=1).reworded("what ?", random.Random(0))


def test_a_model_that_is_not_served_is_found_before_the_long_work(url):
    """Of one task such a refusal is said; of the first that is tried it means that no other will be done either."""
    Server.replies = [(400, "no model of that name")]
    with pytest.raises(VlmendError, match=r"refuses: HTTP 400.*no model of that name"):
        by(url).check()
