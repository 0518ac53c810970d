"""The endpoint that rewords, a real one on loopback: what it replies, where the key goes, and where it does not."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from loopback import completion
from vlmend import Example
from vlmend.build.rewording import Reworder, flaw
from vlmend.errors import VlmendError
from vlmend.models.chat import EndpointChat

if TYPE_CHECKING:
    from loopback import Served

ASKED = Example("how many dogs are there at 10 ?", None, "three", ("3",))


@pytest.fixture
def url(served: Served) -> str:
    """Of a server that says `replies`, one after another."""
    replies.clear()
    served.say = lambda _: replies.pop(0)
    return served.url


replies: list[tuple[int, bytes]] = []
"""A status and a body each."""


def reworded(reworder: Reworder, question: str, seed: int = 0) -> str | None:
    (text,) = reworder.reworded([question], [random.Random(seed)])
    return text


def by(url: str, model: str = "default", *, wait: float = 0.01, timeout: float = 5.0) -> Reworder:
    return Reworder(EndpointChat(url, model, wait=wait, timeout=timeout))


def test_endpoint(url, served, monkeypatch):
    """After an error of the server it is asked again; the key goes along, and the record's own seed."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    replies[:] = [(500, b"busy"), (200, completion(" count the dogs at 10 "))]
    assert reworded(by(url, "mine"), ASKED.question, 1) == "count the dogs at 10"
    first, second = served.asked
    assert first == second
    path, headers, body = first
    assert (path, body["model"], headers["Authorization"]) == ("/v1/chat/completions", "mine", "Bearer secret")
    assert ASKED.question in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([(401, b"who are you")], "refuses: HTTP 401"),
        ([(503, b"busy")] * 3, "refuses: HTTP 503"),
    ],
)
def test_endpoint_that_fails(url, said, problem):
    replies[:] = said
    with pytest.raises(VlmendError, match=problem):
        reworded(by(url), ASKED.question)
    assert not replies


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
        (completion("  "), "empty"),
    ],
)
def test_replies_that_are_no_rewording(url, reply, why):
    replies[:] = [(200, reply if isinstance(reply, bytes) else reply.encode())]
    assert flaw(ASKED, reworded(by(url), ASKED.question)) == why


def test_checked_before_the_long_work(url, monkeypatch):
    """A null is a reply yet; what is no chat completion comes from something else, and is shown without the key."""
    monkeypatch.setenv("OPENAI_API_KEY", "hush-hush")
    replies[:] = [(200, completion(None))]
    by(url).check()
    for text, what in (("<html>", "no JSON"), ('{"error": "wrong key hush-hush"}', "no chat completion")):
        replies[:] = [(200, text.encode())]
        with pytest.raises(VlmendError, match=what) as found:
            by(url).check()
        assert "hush-hush" not in str(found.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(url, served, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    replies[:] = [(status, b"")]
    served.headers = {"Location": f"{url}/elsewhere?api_key=other"}
    with pytest.raises(VlmendError, match=r"redirects to .* not followed") as found:
        reworded(by(url), ASKED.question)
    assert [path for path, _, _ in served.asked] == ["/v1/chat/completions"]
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
        reworded(by(url), ASKED.question)
    assert key not in str(found.value)


def test_nobody_there():
    with pytest.raises(VlmendError, match="cannot be reached"):
        reworded(by("http://127.0.0.1:9", timeout=1), "what ?")


def test_a_model_that_is_not_served_is_found_before_the_long_work(url):
    """Of one task such a refusal is said; of the first that is tried it means that no other will be done either."""
    replies[:] = [(400, b"no model of that name")]
    with pytest.raises(VlmendError, match=r"refuses: HTTP 400.*no model of that name"):
        by(url).check()
