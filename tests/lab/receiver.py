"""A webhook's receiver on loopback: a real HTTP server that answers as a test says, also as none should."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.lab.beside import Served

#: How a request is answered; given the handler, after the body was read.
Answer = Callable[["BaseHTTPRequestHandler"], None]


def status(code: int, **headers: str) -> Answer:
    """Answer with a status and nothing else."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def raw(data: bytes) -> Answer:
    """Answer with these bytes and hang up."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


class Receiver(Served):
    """Takes what is posted; the answers are given in order, the last of them for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.answered = 0
        #: Set when it ends: what hangs or drips goes on until then.
        self.over = threading.Event()
        self._answers = list(answers) or [status(204)]
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.headers.append(dict(self.headers))
                answers = receiver._answers
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                try:
                    answer(self)
                except OSError:  # who posted has hung up
                    self.close_connection = True
                receiver.answered += 1

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(Handler)

    @property
    def url(self) -> str:
        """Its address, with a path that nobody else may see."""
        return f"{self.address}/services/T0/hunter2"

    def hang(self, _handler: BaseHTTPRequestHandler) -> None:
        """Answer nothing."""
        self.over.wait()

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a header that does not end, byte after byte."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        while not self.over.wait(0.02):
            handler.wfile.write(b"x")

    def flood(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer with a body that does not end, as fast as it is taken."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        while not self.over.is_set():
            handler.wfile.write(chunk)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        super().__exit__()
