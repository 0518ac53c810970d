"""A language model on loopback: a real server that replies as it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from vlmend.endpoints import Endpoint


def completion(text: object) -> bytes:
    """A chat completion with this text."""
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


class Served:
    """What a server does.

    Attributes:
        url: its address.
        say: the request's body -> status and text of the reply, or a whole body as a mapping or as bytes.
        asked: (path, headers, body) of all requests.
        headers: sent along with every reply.
    """

    def __init__(self) -> None:
        self.url = ""
        self.say: Callable[[dict[str, Any]], tuple[int, Any]] = lambda body: (200, "")
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.headers: dict[str, str] = {}
        self.lock = Lock()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, wait=0.001, timeout=5, tries=2)


@contextmanager
def serving() -> Iterator[Served]:
    """A server while the block lasts."""
    found = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # nobody asks so but who follows a redirect
            with found.lock:
                found.asked.append((self.path, dict(self.headers), {}))
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with found.lock:
                found.asked.append((self.path, dict(self.headers), body))
                status, said = found.say(body)
            if isinstance(said, str):
                message = {"role": "assistant", "content": said}
                said = {"model": "judge-0613", "choices": [{"message": message}]}
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
