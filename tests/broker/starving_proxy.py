"""A proxy before a Kafka broker that can starve its clients: everything is answered but what they fetch."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self

LOOPBACK = "127.0.0.1"
FETCH = 1  # the protocol's api_key
_SIZE = struct.Struct(">i")
_API_KEY = struct.Struct(">h")


class StarvingProxy:
    """A listener of its own: start the broker with its `address` as advertised, and `forward_to` the broker's."""

    def __init__(self) -> None:
        self._server = socket.create_server((LOOPBACK, 0))
        self._upstream: tuple[str, int] | None = None
        self._starving = threading.Event()
        self._open: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._server.getsockname()[1]}"

    def forward_to(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._upstream = (host, int(port))

    def starve(self) -> None:
        """Let no fetch through from now on; its client waits for the answer."""
        self._starving.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return  # closed
            assert self._upstream is not None
            broker = socket.create_connection(self._upstream)
            self._open += [client, broker]
            for pump in (self._pass_requests, self._pass_answers):
                threading.Thread(target=pump, args=(client, broker), daemon=True).start()

    def _pass_requests(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (head := _exactly(client, _SIZE.size)) and (body := _exactly(client, _SIZE.unpack(head)[0])):
                if not (self._starving.is_set() and _API_KEY.unpack_from(body)[0] == FETCH):
                    broker.sendall(head + body)
            broker.shutdown(socket.SHUT_WR)

    def _pass_answers(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := broker.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


def _exactly(source: socket.socket, size: int) -> bytes:
    """Read so many bytes; fewer where the connection ends."""
    found = b""
    while len(found) < size and (more := source.recv(size - len(found))):
        found += more
    return found
