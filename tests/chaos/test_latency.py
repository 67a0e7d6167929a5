"""Latency to brokers: slowed, measured at each proxy, taken back whatever happens."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import msgspec
import pytest

from sf_healer.chaos import latency, litmus
from sf_healer.chaos.bindings import Bindings, ToxiproxyBinding
from sf_healer.chaos.faults import LabFault
from sf_healer.chaos.latency import Latency, LatencyError, slowed
from sf_healer.chaos.questions import LabQuestions
from sf_healer.chaos.run import InjectionError
from tests.chaos.engines import LITMUS, documents
from tests.chaos.lab_file import DESTINATIONS
from tests.lab.beside import Served
from tests.lab.toxiproxy import Toxiproxy
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.lab.kafka import KafkaCluster

FAST = Latency(milliseconds=200, jitter=50)
NONE = Latency(milliseconds=0, jitter=0)


class Proxies(Served):
    """Toxiproxy's API that does as it is told and slows nothing; `refuses` names a proxy that it knows no more."""

    def __init__(self) -> None:
        self.listen: dict[str, str] = {}
        self.toxics: dict[str, list[str]] = {}
        self.refuses = ""
        proxies = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"listen": proxies.listen.get(self._name(), "")})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if proxies.refuses == self._name():
                    return self._answer({"error": "proxy not found"}, 404)
                proxies.toxics.setdefault(self._name(), []).append(body["name"])
                return self._answer(body)

            def do_DELETE(self) -> None:
                toxic = self.path.rpartition("/")[2]
                if toxic not in proxies.toxics.get(self._name(), []):
                    return self._answer({"error": "toxic not found"}, 404)
                proxies.toxics[self._name()].remove(toxic)
                return self._answer(None, 204)

            def _name(self) -> str:
                return self.path.split("/")[2]

            def _answer(self, body: object, status: int = 200) -> None:
                data = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)


@pytest.fixture
def proxies() -> Iterator[Proxies]:
    with Proxies() as found:
        yield found


@asynccontextmanager
async def a_broker(seconds: Callable[[], float] = lambda: 0.0) -> AsyncIterator[str]:
    """Answer any request after so long, as a broker does a first one."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(size)
        await asyncio.sleep(seconds())
        writer.write((4).to_bytes(4) + b"\x00\x00\x00\x01")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_what_was_measured_is_told_and_taken_back_after(proxies: Proxies):
    async with a_broker() as address:
        proxies.listen = {"one": address, "two": address}
        async with slowed(proxies.address, ["one", "two"], NONE) as measured:
            assert all(proxies.toxics.values())
        assert set(measured) == {"seconds to an answer through one", "seconds to an answer through two"}
    assert proxies.toxics == {"one": [], "two": []}


async def test_an_answer_may_take_the_latency_and_then_as_long_as_any(proxies: Proxies, monkeypatch):
    monkeypatch.setattr(latency, "ANSWER_SECONDS", 1.0)
    long = Latency(milliseconds=1500, jitter=0)
    async with a_broker(lambda: 1.6 if proxies.toxics else 0.0) as address:
        proxies.listen = {"one": address, "two": address}
        async with slowed(proxies.address, ["one", "two"], long) as measured:
            assert len(measured) == 2


async def test_a_latency_that_is_not_there_was_not_injected(proxies: Proxies):
    async with a_broker() as address:
        proxies.listen = {"one": address}
        with pytest.raises(LatencyError, match=r"not after 0\.15 s"):
            async with slowed(proxies.address, ["one"], FAST):
                pytest.fail("it was held for injected")
    assert proxies.toxics == {"one": []}


async def test_what_is_slow_already_is_taken_back_when_another_cannot_be_slowed(proxies: Proxies):
    async with a_broker() as address:
        proxies.listen, proxies.refuses = {"one": address, "two": address}, "two"
        with pytest.raises(LatencyError, match=r"two may still be slow: .*toxic not found"):
            async with slowed(proxies.address, ["one", "two"], NONE):
                pytest.fail("it was held for injected")
    assert proxies.toxics == {"one": []}


async def test_a_broker_that_does_not_answer_is_no_slow_one(proxies: Proxies):
    proxies.listen = {"one": "127.0.0.1:1"}
    with pytest.raises(LatencyError, match="the broker behind one gives no answer"):
        async with slowed(proxies.address, ["one"], NONE):
            pytest.fail("it was held for injected")
    assert proxies.toxics == {}


async def test_without_toxiproxy_nothing_is_injected():
    with pytest.raises(LatencyError, match=r"toxiproxy: nothing listens at 127\.0\.0\.1:1"):
        async with slowed("http://127.0.0.1:1", ["one"], NONE):
            pytest.fail("it was held for injected")


def engine(**settings: str) -> litmus.ChaosEngine:
    """Give the shipped engine with other settings."""
    (document,) = documents(LITMUS / "engines" / "network-latency-healer.yaml")
    for each in document["spec"]["experiments"][0]["spec"]["components"]["env"]:
        each["value"] = settings.get(each["name"], each["value"])
    parsed = litmus.parse(document)
    assert isinstance(parsed, litmus.ChaosEngine)
    return parsed


def fault(url: str, *names: str, destinations: tuple[str, ...] = DESTINATIONS) -> LabFault:
    bindings = Bindings(toxiproxy=ToxiproxyBinding(url, dict.fromkeys(destinations, names)))
    return LabFault(LabQuestions(bindings))


async def test_a_destination_without_proxies_is_named(proxies: Proxies):
    with pytest.raises(InjectionError, match=DESTINATIONS[1].replace("|", r"\|")):
        await fault(proxies.address, "one", destinations=DESTINATIONS[:1]).inject(engine())
    assert proxies.toxics == {}


async def test_latency_to_everybody_is_refused(proxies: Proxies):
    with pytest.raises(InjectionError, match="DESTINATION_HOSTS is empty"):
        await fault(proxies.address, "one").inject(engine(DESTINATION_HOSTS=""))


@pytest.mark.toxiproxy
async def test_a_real_broker_answers_late_for_as_long_as_the_engine_says(kafka_single: KafkaCluster, tmp_path: Path):
    with Toxiproxy(tmp_path) as toxiproxy:
        toxiproxy.proxy("broker-0", kafka_single.bootstrap)
        trial = engine(TOTAL_CHAOS_DURATION="1", NETWORK_LATENCY="400", JITTER="100")
        measured = await fault(toxiproxy.url, "broker-0").inject(trial)
        assert toxiproxy.toxics("broker-0") == []
        (words,) = measured.values()
        before, meanwhile = (float(part.split()[0]) for part in words.split(", "))
        assert before < 0.3 <= meanwhile


@pytest.mark.toxiproxy
async def test_a_run_that_is_cancelled_slows_nobody_any_more(kafka_single: KafkaCluster, tmp_path: Path):
    with Toxiproxy(tmp_path) as toxiproxy:
        toxiproxy.proxy("broker-0", kafka_single.bootstrap)
        task = asyncio.create_task(fault(toxiproxy.url, "broker-0").inject(engine(TOTAL_CHAOS_DURATION="600")))

        async def slow() -> bool:
            return bool(toxiproxy.toxics("broker-0"))

        await until_async(slow, "the broker to be slowed", seconds=60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert toxiproxy.toxics("broker-0") == []


def test_the_bindings_of_a_toxiproxy_are_read_strictly():
    text = '[toxiproxy]\nurl = "http://a:1"\n[toxiproxy.proxies]\n"k|9093" = ["one", "two"]\n'
    assert msgspec.toml.decode(text, type=Bindings).toxiproxy.proxies == {"k|9093": ("one", "two")}
    with pytest.raises(msgspec.ValidationError, match="uri"):
        msgspec.toml.decode(text.replace("url", "uri"), type=Bindings)
