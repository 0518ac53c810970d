"""A stand-in for an OpenAI-compatible endpoint, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]
"""Body of a request -> status, and what is sent back."""


def completion(text: object) -> bytes:
    """A chat completion with this text."""
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@contextmanager
def serving() -> Iterator[Callable[[Answer], str]]:
    """Gives what starts an endpoint and returns its URL; all end with the block."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, content = answer(body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1"

    try:
        yield start
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
