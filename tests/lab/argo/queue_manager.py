"""A stand-in for queue-manager: its paths, its metrics with its labels, and faults on request.

As in the platform, the middleware counts every path by its raw name, /metrics and probes too. Run as a program:
`python queue_manager.py --port 8080 --slow 0.8 --fail 0.3`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

PATHS = {
    "/health/health/live": b'{"status":"live"}',
    "/health/health/ready": b'{"status":"ready"}',
    "/queues/queues/list": b"[]",
}


class QueueManager:
    """Serves on loopback; of the requests to /queues each takes `slow` seconds, and a share of `fail` ends with 503."""

    def __init__(self, port: int, *, slow: float, fail: float) -> None:
        registry = CollectorRegistry()
        requests = Counter(
            "http_requests", "Total HTTP requests", ["method", "endpoint", "http_status"], registry=registry
        )
        latency = Histogram("http_request_duration_seconds", "HTTP request latency", ["endpoint"], registry=registry)
        numbers = itertools.count(1)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                began = time.perf_counter()
                status, body = self._answer() if self.command == "GET" else (405, b"{}")
                latency.labels(self.path).observe(time.perf_counter() - began)
                requests.labels(self.command, self.path, status).inc()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  counted

            def _answer(self) -> tuple[int, bytes]:
                if self.path == "/metrics":
                    return 200, generate_latest(registry)
                if self.path not in PATHS:
                    return 404, b"{}"
                if self.path.startswith("/queues"):
                    time.sleep(slow)
                    number = next(numbers)
                    if int(number * fail) > int((number - 1) * fail):  # spread evenly
                        return 503, b"{}"
                return 200, PATHS[self.path]

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Server(("127.0.0.1", port), Handler)


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--fail", type=float, default=0.0)
    told = parser.parse_args()
    QueueManager(told.port, slow=told.slow, fail=told.fail).server.serve_forever()


if __name__ == "__main__":
    main()
