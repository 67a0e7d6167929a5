"""A worker as a process, on the embedded broker and on Apache Kafka: captures judged, bad input survived.

One worker for the module; each test has Jobs of its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sf_healer import feed
from sf_healer.captures import Line
from sf_healer.core.evidence import EMPTY
from sf_healer.local.services import SERVICES, Dialect
from sf_healer.settings import Settings
from sf_healer.topics import DEAD_LETTERS, EVIDENCE
from tests.broker.brokers import BROKERS, with_topics
from tests.lab.captures import SCENES, generate_capture
from tests.lab.waiting import until_async
from tests.lab.worker import Worker, records_of, send

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)

POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 4
startup_threshold_seconds = 8
error_grace_seconds = 1
"""
SEEN_SECONDS = 60.0
#: Forty minutes in six seconds: a pause between two reports of a Job still is many milliseconds.
SPEED = 400.0
#: Where a page leads, and what it loads.
LINK = re.compile(r'(?:href|src)="(/[^"]*)"')
#: A record of this size is just within what Kafka takes by default (message.max.bytes = 1048588).
LARGEST_BYTES = 1_048_500
#: The naming rule finds these services' Jobs in every report; the others need a cluster to be told apart.
NAMED = frozenset({Dialect.STATUS, Dialect.STATUS_WITHOUT_ARANGO, Dialect.STATUS_DUMMY})
SHOWN = {"healthy": "healthy", "stuck": "stuck", "failed": "failed", "interrupted": "stopped", "completed": "completed"}


@pytest.fixture(scope="module", params=BROKERS)
def bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    with with_topics(request) as bootstrap:
        yield bootstrap


@pytest.fixture(scope="module")
def worker(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    directory = tmp_path_factory.mktemp("worker")
    (directory / "policy.toml").write_text(POLICY)
    made = Worker(
        "observing",
        directory,
        bootstrap=bootstrap,
        identity="convention",
        policy_file=directory / "policy.toml",
        mark_interval_seconds=0.2,
        sweep_window_seconds=0.5,
        broker_session_timeout_seconds=6,  # Kafka takes no shorter one
        broker_heartbeat_seconds=1,
    )
    with made:
        yield made.wait_until_ready()
        assert made.server.is_alive, made.tail()


class Job:
    """A Job of a test's own, and what it says."""

    def __init__(self) -> None:
        self.short = secrets.token_hex(3)
        self.queue = f"loader-btcusdt-api-trades-2025-06-01-{self.short}"
        self.key = f"stf/{self.queue}-arango-connector"

    def says(self, status: str, **fields: object) -> bytes:
        named = {"queue_id": self.queue, "producer": f"arango-connector__{self.short}", "status": status}
        return json.dumps({**named, **fields}).encode()


async def verdict_of(worker: Worker, key: str) -> str | None:
    row = (await asyncio.to_thread(worker.jobs)).get(key)
    return row and row["verdict"]


async def until_verdict(worker: Worker, key: str, verdict: str) -> None:
    async def is_so() -> bool:
        return await verdict_of(worker, key) == verdict

    await until_async(is_so, f"{key} to be {verdict}", seconds=SEEN_SECONDS)


# ------------------------------------------------------------------ a capture


async def test_a_capture_is_judged_as_its_truth_says(bootstrap: str, worker: Worker):
    scenes = [
        msgspec.structs.replace(scene, services=named)
        for scene in SCENES
        if scene.firm and (named := [name for name in scene.services if SERVICES[name].dialect in NAMED])
    ]
    capture = generate_capture(11, scenes=scenes, pairs=(), with_garbage=False)
    lines = [Line(row["at"], row["partition"], None, base64.b64decode(row["value_b64"])) for row in capture.lines]
    settings = Settings(broker_url=f"kafka://{bootstrap}")
    # Not all at once: what one Job says on several partitions within a millisecond has no order.
    assert await feed.feed(settings, lines, topic="queue-events", speed=SPEED) == len(lines)

    truth = {f"stf/{name}": row for name, row in capture.truth["jobs"].items() if row["verdict"] in SHOWN}
    going_on = [
        last_loading(lines, job["env"])
        for job in capture.jobs
        if truth.get(f"stf/{job['name']}", {}).get("verdict") == "healthy"
    ]
    wanted = {key: SHOWN[row["verdict"]] for key, row in truth.items()}
    assert set(wanted.values()) == set(SHOWN.values())

    async def as_the_truth_says() -> bool:
        await send(bootstrap, going_on)  # the capture is over; what is well goes on
        rows = await asyncio.to_thread(worker.jobs)
        return {key: rows.get(key, {}).get("verdict") for key in wanted} == wanted

    await until_async(as_the_truth_says, "the verdicts of the truth", seconds=SEEN_SECONDS)


def last_loading(lines: list[Line], env: dict[str, str]) -> bytes:
    own = [line.value for line in lines if line.value and env["TELEMETRY_PRODUCER_ID"].encode() in line.value]
    return next(value for value in reversed(own) if b'"loading"' in value)


async def test_a_job_is_shown_with_what_it_said_and_when(bootstrap: str, worker: Worker):
    job = Job()
    before = time.time()
    (offset,) = await send(bootstrap, [job.says("loading", records_written=42)], partition=1)
    await until_verdict(worker, job.key, "healthy")
    answer = await asyncio.to_thread(worker.get, f"/jobs/{job.key}/")
    assert answer is not None
    assert answer.body["target"] == "arango-connector"
    assert answer.body["said"]["records_written"] == 42
    assert (answer.body["said"]["source_partition"], answer.body["said"]["source_offset"]) == (1, offset)
    assert abs(answer.body["last_loading_at"] - before) < 10.0
    await until_verdict(worker, job.key, "stuck")


async def test_the_watermark_follows_the_clock_while_nothing_is_reported(worker: Worker):
    async def is_fresh() -> bool:
        answer = await asyncio.to_thread(worker.get, "/fleet/")
        assert answer is not None
        marks = [row["watermark"] for row in answer.body["partitions"]]
        return len(marks) == 6 and all(mark and time.time() - mark < 2.0 for mark in marks)

    await until_async(is_fresh, "six fresh watermarks", seconds=SEEN_SECONDS)


async def test_a_person_finds_a_stuck_job_on_the_dashboard_and_every_way_on_leads_somewhere(
    bootstrap: str, worker: Worker
):
    job = Job()
    await send(bootstrap, [job.says("loading", message="<script>alert(1)</script>")])
    await until_verdict(worker, job.key, "stuck")
    ways = {f"/?verdict=sick&text={job.short}", "/", "/ui/"}
    pages: dict[str, str] = {}
    for _ in range(3):  # the dashboard, what it links to, and what that links to
        for path in sorted(ways - pages.keys()):
            answer = await asyncio.to_thread(worker.get, path, accept="text/html")
            assert answer is not None
            assert answer.status == 200, f"{path}: {answer.body}"
            pages[path] = str(answer.body)
        found = {html.unescape(way) for page in pages.values() for way in LINK.findall(page)}
        ways |= {way for way in found if not way.startswith("/?text=") and "after=" not in way}
    assert job.key in pages[f"/?verdict=sick&text={job.short}"]
    assert pages["/ui/"].startswith("<!doctype html>")
    told = pages[f"/jobs/{job.key}/"]
    assert "stuck" in told
    assert "loading_stopped" in told
    assert [path for path in pages if path.startswith("/assets/")]
    assert not [path for path, page in pages.items() if "<script>" in page]


# ------------------------------------------------------------------ bad input


def huge(job: Job) -> bytes:
    start = job.says("exploded")[:-1] + b', "message": "'
    return start + b"x" * (LARGEST_BYTES - len(start) - 2) + b'"}'


async def test_bad_input_is_buried_with_its_reason_counted_and_survived(bootstrap: str, worker: Worker):
    job = Job()
    bad = {
        "not_json": [b'{"status": "loading"', b"", str({"queue_id": job.queue, "status": "loading"}).encode()],
        "null": [None],
        "not_utf8": [b"\xff\xfe\x00\x01"],
        "too_deep": [b"[" * 100_000],
        "not_object": [b"[]", b"42"],
        "wrong_type": [json.dumps({"status": {"is": "loading"}, "queue_id": job.queue}).encode()],
        "no_status": [json.dumps({"queue_id": job.queue}).encode()],
        "unknown_status": [job.says("exploded"), huge(job)],
        "no_identity": [b'{"status": "loading"}'],
        "identity_too_long": [json.dumps({"status": "loading", "queue_id": "q" * 600}).encode()],
    }
    before = await asyncio.to_thread(worker.metrics)
    sent = {
        reason: list(zip(await send(bootstrap, values, partition=2), values, strict=True))
        for reason, values in bad.items()
    }
    await send(bootstrap, [job.says("loading")], partition=2)
    await until_verdict(worker, job.key, "healthy")

    after = await asyncio.to_thread(worker.metrics)
    for reason, values in bad.items():
        counted = after["sf_healer_dead_letters_total", reason] - before["sf_healer_dead_letters_total", reason]
        assert counted == len(values), reason
    letters = {
        int(headers["sf-healer-source-offset"]): (record.value, headers)
        for record in await records_of(bootstrap, DEAD_LETTERS)
        for headers in [{name: value.decode() for name, value in record.headers}]
        if headers["sf-healer-source-partition"] == "2"
    }
    for reason, originals in sent.items():
        for offset, value in originals:
            kept, headers = letters[offset]
            original = value or b""
            assert headers["sf-healer-reason"] == reason
            assert headers["sf-healer-source-topic"] == "queue-events"
            assert headers["sf-healer-original-size"] == str(len(original))
            assert headers["sf-healer-sha256"] == hashlib.sha256(original).hexdigest()
            assert (kept or b"") == original[: 64 * 1024]


async def test_a_report_at_the_brokers_size_limit_counts(bootstrap: str, worker: Worker):
    job = Job()
    start = job.says("loading")[:-1] + b', "message": "'
    await send(bootstrap, [start + b"x" * (LARGEST_BYTES - len(start) - 2) + b'"}'])
    await until_verdict(worker, job.key, "healthy")


async def test_an_error_dated_ahead_does_not_outlive_the_loading_after_it(bootstrap: str, worker: Worker):
    job = Job()
    await send(bootstrap, [job.says("started"), job.says("loading")])
    await until_verdict(worker, job.key, "healthy")
    in_half_an_hour = int((time.time() + 1800) * 1000)
    (offset,) = await send(bootstrap, [job.says("error", error_message="clock")], timestamp_ms=in_half_an_hour)

    async def is_over() -> bool:
        await send(bootstrap, [job.says("loading")])
        answer = await asyncio.to_thread(worker.get, f"/jobs/{job.key}/")
        assert answer is not None
        said = answer.body["said"]
        return bool(said["error_at"] and said["loading_at"] > said["error_at"] + 2.0) and said["source_offset"] > offset

    await until_async(is_over, "a loading that is newer than the error", seconds=SEEN_SECONDS)
    assert await verdict_of(worker, job.key) == "healthy"


async def test_garbage_on_the_platforms_control_topic_is_passed_over(bootstrap: str, worker: Worker):
    before = await asyncio.to_thread(worker.metrics)
    await send(bootstrap, [b"{", None, b'{"queue_id": "x", "command": "ping"}'], topic="queue-control")

    async def is_counted() -> bool:
        after = await asyncio.to_thread(worker.metrics)
        counts = {
            kind: after["sf_healer_control_commands_total", kind] - before["sf_healer_control_commands_total", kind]
            for kind in ("unreadable", "other")
        }
        return counts == {"unreadable": 2, "other": 1}

    await until_async(is_counted, "the garbage to be counted", seconds=SEEN_SECONDS)


async def test_what_is_no_evidence_on_our_own_log_is_buried_and_the_log_goes_on(bootstrap: str, worker: Worker):
    await send(bootstrap, [b"no evidence", None, EMPTY], topic=EVIDENCE, partition=3)

    async def are_buried() -> bool:
        letters = await records_of(bootstrap, DEAD_LETTERS)
        sources = [dict(record.headers) for record in letters]
        return len([h for h in sources if h["sf-healer-source-topic"] == EVIDENCE.encode()]) == 2

    await until_async(are_buried, "two dead letters of the evidence log", seconds=SEEN_SECONDS)
    job = Job()
    await send(bootstrap, [job.says("loading")])
    await until_verdict(worker, job.key, "healthy")


async def test_everything_that_came_in_was_folded_buried_or_passed_over(bootstrap: str, worker: Worker):
    """The last of the module: whatever the other tests have sent, it adds up."""

    async def adds_up() -> bool:
        sent = len(await records_of(bootstrap, "queue-events"))
        counts = await asyncio.to_thread(worker.metrics)
        read = sum(count for (name, _), count in counts.items() if name == "sf_healer_reports_total")
        letters = await records_of(bootstrap, DEAD_LETTERS)
        buried = [letter for letter in letters if dict(letter.headers)["sf-healer-source-topic"] == b"queue-events"]
        return sent == read + len(buried)

    await until_async(adds_up, "the numbers to add up", seconds=SEEN_SECONDS)
    assert worker.server.is_alive


def test_what_a_worker_says_is_one_json_object_a_line(worker: Worker):
    for line in worker.log.read_text().splitlines():
        said: dict[str, Any] = json.loads(line)
        assert {"event", "level", "timestamp"} <= said.keys()
