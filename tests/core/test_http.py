"""The JSON getter against a real server on loopback."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sf_healer.adapters.http import WorkerRefusedError, WorkerUnreachableError, get_json

PAGES = {
    "/jobs/": (200, '{"jobs": ["stf/a"]}'),
    "/page/": (200, "<html>"),
    "/missing/": (404, '{"error": "no such Job: stf/a"}'),
    "/broken/": (503, "down"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/elsewhere/":
            self.send_response(302)
            self.send_header("Location", "/jobs/")
            self.end_headers()
            return
        status, body = PAGES[self.path]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    opened = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=opened.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{opened.server_port}"
    opened.shutdown()
    thread.join()
    opened.server_close()


def test_a_page_is_its_json(server):
    assert get_json(f"{server}/jobs/") == {"jobs": ["stf/a"]}


def test_a_key_on_another_worker_is_followed(server):
    assert get_json(f"{server}/elsewhere/") == {"jobs": ["stf/a"]}


@pytest.mark.parametrize(
    ("page", "status", "said"),
    [
        ("/missing/", 404, "answered 404: no such Job: stf/a"),
        ("/broken/", 503, "answered 503: Service Unavailable"),
        ("/page/", 200, "answered no JSON"),
    ],
)
def test_an_answer_that_is_none_is_told_with_its_status(server, page, status, said):
    with pytest.raises(WorkerRefusedError, match=said) as caught:
        get_json(server + page)
    assert caught.value.status == status


def test_nobody_there_is_unreachable():
    with pytest.raises(WorkerUnreachableError, match=r"nothing listens at 127\.0\.0\.1:1"):
        get_json("http://127.0.0.1:1/jobs/")


def test_a_silent_worker_is_unreachable_after_the_time_given():
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/jobs/"
        with pytest.raises(WorkerUnreachableError, match=r"no answer in 0\.2 s"):
            get_json(url, timeout_seconds=0.2)
    assert time.monotonic() - began < 2
