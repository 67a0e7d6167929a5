"""A worker's pages on a port of this machine: what the real views made of `the_pages`, and a test may change them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from tests.core.shown import the_pages

PAGES = the_pages()


class Pages(ThreadingHTTPServer):
    """A worker's pages; a test may change them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages = {path: (status, msgspec.json.encode(body)) for path, (status, body) in PAGES.items()}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def put(self, path: str, body: object, status: int = 200) -> None:
        self.pages[path] = (status, msgspec.json.encode(body))


class Handler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        status, body = self.server.pages.get(self.path.partition("?")[0], (404, b'{"error": "no such page"}'))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)
        self.server.asked.append(self.path)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def served() -> Iterator[Pages]:
    """Serve the pages until the end of the block."""
    opened = Pages()
    thread = threading.Thread(target=opened.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield opened
    finally:
        opened.shutdown()
        thread.join()
        opened.server_close()
