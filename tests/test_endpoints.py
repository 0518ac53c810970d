"""A real endpoint on loopback: replies, retries, what is refused, and that a key stays where it belongs."""

from __future__ import annotations

import pytest

from loopback import serving
from vlmend.endpoints import Completion, Endpoint
from vlmend.errors import EndpointError

SECRET = "sk-0123456789abcdef"
BODY = {"model": "judge", "messages": [{"role": "user", "content": "rate it"}]}


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", f"{SECRET}\n")
    return "JUDGE_KEY"


def refusal(endpoint):
    with pytest.raises(EndpointError) as caught:
        endpoint.complete(BODY)
    message = str(caught.value)
    assert "\n" not in message
    assert SECRET not in message
    return message, caught.value


def test_a_reply(served, key):
    served.say = lambda body: (200, "Rating: 4")
    assert Endpoint(f"{served.url}/", key).complete(BODY) == Completion("Rating: 4", "judge-0613")
    ((path, headers, body),) = served.asked
    assert (path, headers["Authorization"], body) == ("/v1/chat/completions", f"Bearer {SECRET}", BODY)


def test_no_key_is_sent_unless_one_is_named(served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    served.endpoint.complete(BODY)
    assert "Authorization" not in served.asked[0][1]


def test_a_busy_server_is_asked_again(served):
    statuses = [429, 503, 200]
    served.say = lambda body: (statuses.pop(0), "done")
    assert Endpoint(served.url, wait=0.001).complete(BODY).text == "done"
    assert len(served.asked) == 3


def test_a_server_says_how_long_to_wait(served, monkeypatch):
    waited = []
    monkeypatch.setattr("vlmend.endpoints.time.sleep", waited.append)
    served.headers, statuses = {"Retry-After": "7"}, [429, 429, 200]
    served.say = lambda body: (statuses.pop(0), "done")
    assert Endpoint(served.url, wait=0.001).complete(BODY).text == "done"
    served.headers = {"Retry-After": "86400"}
    statuses += [429, 200]
    Endpoint(served.url, wait=0.001).complete(BODY)
    assert waited == [7.0, 7.0, 60.0]


@pytest.mark.parametrize(
    ("status", "said", "words", "this_one"),
    [
        (200, b"<html>", "replies what is no JSON", False),
        (200, {"error": "x"}, "replies what is no chat completion", False),
        (200, [], "replies what is no chat completion", False),
        (200, {"choices": [{"message": {"content": None, "refusal": "no"}}]}, "replies without a text", True),
        (400, {"error": "too long"}, "refuses: HTTP 400", True),
        (500, b"\x1b[2J\x07 gone", "HTTP 500 Internal Server Error (\ufffd[2J\ufffd gone)", False),
        (401, {"error": f"no such key {SECRET}"}, "refuses: HTTP 401 Unauthorized", False),
        (503, {"error": "busy"}, "refuses: HTTP 503", False),
    ],
)
def test_what_is_no_reply(served, key, status, said, words, this_one):
    served.say = lambda body: (status, said)
    message, error = refusal(Endpoint(served.url, key, wait=0.001, tries=2))
    assert words in message
    assert error.this_one is this_one
    assert len(served.asked) == (2 if status >= 500 else 1)


def test_more_than_can_be_meant(served, monkeypatch):
    monkeypatch.setattr("vlmend.endpoints._LARGEST", 100)
    served.say = lambda body: (200, "x" * 200)
    assert "replies more than" in refusal(served.endpoint)[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(served, key, status):
    with serving() as other:
        served.headers = {"Location": f"{other.url}/chat/completions"}
        served.say = lambda body: (status, "")
        assert "redirects to 127.0.0.1, which is not followed" in refusal(Endpoint(served.url, key))[0]
        assert other.asked == []


def test_nobody_there():
    message, error = refusal(Endpoint("http://127.0.0.1:9/v1", tries=2, wait=0.001, timeout=1))
    assert "cannot be reached" in message
    assert not error.this_one


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://me:sk-secret@api.example.com/v1", "name and password in it is not taken (api.example.com)"),
        ("ftp://api.example.com", "begins with http:// or https://"),
        ("file:///etc/passwd", "begins with http:// or https://"),
        ("api.example.com/v1", "begins with http:// or https://"),
        ("https://", "begins with http:// or https://"),
        ("https://api.example.com/v1?key=sk-secret", "ends before any ? or # (api.example.com)"),
        ("https://api.example.com:port", "cannot be read"),
        ("https://[api.example.com", "cannot be read"),
        ("https://api.example.com/v 1", "white space"),
    ],
)
def test_addresses_that_are_refused(url, words):
    with pytest.raises(EndpointError) as caught:
        Endpoint(url)
    assert words in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_keys_that_are_refused(key, monkeypatch):
    with pytest.raises(EndpointError, match="by https:// alone"):
        Endpoint("http://api.example.com/v1", key)
    Endpoint("http://api.example.com/v1")
    Endpoint("https://api.example.com/v1", key)
    Endpoint("http://[::1]:8000/v1", key)
    with pytest.raises(EndpointError, match="variable NO_SUCH_KEY, which is to hold"):
        Endpoint("https://api.example.com/v1", "NO_SUCH_KEY")
    monkeypatch.setenv("JUDGE_KEY", "sk-1\nX-Other: header")
    with pytest.raises(EndpointError, match="JUDGE_KEY holds what is no key") as caught:
        Endpoint("https://api.example.com/v1", key)
    assert "sk-1" not in str(caught.value)
