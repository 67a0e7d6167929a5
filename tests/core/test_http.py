"""The JSON getter against a real server on loopback."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sf_healer.adapters.http import (
    NobodyListensError,
    WorkerRefusedError,
    WorkerSilentError,
    WorkerUnreachableError,
    get_answer,
    get_json,
    get_status,
)

PAGES = {
    "/jobs/": (200, '{"jobs": ["stf/a"]}'),
    "/page/": (200, "<html>"),
    "/missing/": (404, '{"error": "no such Job: stf/a"}'),
    "/broken/": (503, "down"),
    "/deep/": (200, "[" * 200_000),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/elsewhere/":
            self.send_response(302)
            self.send_header("Location", "/jobs/")
            self.end_headers()
            return
        if self.path == "/circle/":
            self.send_response(302)
            self.send_header("Location", "/circle/")
            self.end_headers()
            return
        if self.path == "/packed/":
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(b"no gzip")
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
        ("/deep/", 200, "answered no JSON"),
        ("/packed/", 200, "answered what cannot be unpacked"),
        ("/circle/", 508, "is redirected in a circle"),
    ],
)
def test_an_answer_that_is_none_is_told_with_its_status(server, page, status, said):
    with pytest.raises(WorkerRefusedError, match=said) as caught:
        get_json(server + page)
    assert caught.value.status == status


@pytest.mark.parametrize(("page", "status"), [("/deep/", 200), ("/packed/", 200), ("/circle/", 508)])
def test_whoever_is_asked_for_any_answer_gets_one_where_there_is_none_to_read(server, page, status):
    assert get_answer(server + page) == (status, None)
    assert get_status(server + page) == status


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://☃/", f"http://{'a' * 300}/", "http://a\x01b/", f"http://{'a.' * 40000}"]
)
def test_what_is_no_address_is_unreachable(url):
    for ask in (get_json, get_answer, get_status):
        with pytest.raises(NobodyListensError, match=r"is no address|^no host is called a"):
            ask(url)


def drip(server: socket.socket, until: threading.Event) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n[")
        while not until.wait(0.05):
            connection.sendall(b" ")


def test_a_worker_that_answers_a_byte_at_a_time_is_silent_after_a_while():
    """Every read is in time, and the answer never ends."""
    enough = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=(server, enough))
        dripping.start()
        threading.Timer(5.0, enough.set).start()
        try:
            with pytest.raises(WorkerSilentError, match=r"gave no whole answer in 0\.6 s"):
                get_json(f"http://127.0.0.1:{server.getsockname()[1]}/jobs/", timeout_seconds=0.1)
        finally:
            enough.set()
            dripping.join()


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
