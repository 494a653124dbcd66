"""A chat endpoint on the loopback that does as it is told, for as long as its process lives."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], Any]
"""Status, headers, and a body: a dict becomes JSON."""


def said(text: str, finish: str = "stop") -> Reply:
    """A completion."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, {}, {"choices": [choice]}


class ChatServer(ThreadingHTTPServer):
    """`reply(question, times it was asked before)` answers; `asked` counts the questions."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, reply: Callable[[str, int], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.asked, self.bodies = reply, Counter[str](), []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = body["messages"][-1]["content"].split("\n")[0]
        with self.server.lock:
            before = self.server.asked[question]
            self.server.asked[question] += 1
            self.server.bodies.append(body)
        status, headers, content = self.server.reply(question, before)
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):  # who asked was killed
            pass

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(reply: Callable[[str, int], Reply]) -> Iterator[ChatServer]:
    """A server in a thread of this process, for the length of the block."""
    with ChatServer(reply) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
