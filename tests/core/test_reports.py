"""The made-up reports, Jobs and captures look like the recorded ones, and say what the facts say."""

from __future__ import annotations

import base64
import json
import random
import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from sf_healer.captures import read_file
from sf_healer.local import launcher
from sf_healer.local.reports import Course, Process, Story, ending, life
from sf_healer.local.services import CONSUMERS, SERVICE_OF_TARGET, SERVICES, Dialect, Service
from sf_healer.replay import read_jobs, read_truth
from tests.lab.captures import SCENES, generate_capture, write_capture

if TYPE_CHECKING:
    from pathlib import Path

EPOCH = 1_757_000_000.0
QUEUE = launcher.Queue.launch("BTCUSDT", "api_trades", "2025-06-01", "P4nTkv", until="2025-06-30")


def process(name: str, **env: str) -> Process:
    service = SERVICES[name]
    queue = launcher.Queue.launch("BTCUSDT", service.type_, "2025-06-01", "P4nTkv")
    return Process(service, launcher.environment(queue, service.target) | env, booted_at=EPOCH - 900_000)


def tell(name: str, story: Story, *, turn: float = 100.0, until: float = 1000.0, **more: Any) -> list[Any]:
    course = Course(epoch=EPOCH, turn_seconds=turn, until_seconds=until)
    return list(life(process(name), story, random.Random(1), course, **more))


def kinds(told: list[Any]) -> list[tuple[str, bool | None]]:
    fields = [json.loads(value) for _, value in told]
    return [(field.get("status") or field["event"], field.get("finished")) for field in fields]


# ------------------------------------------------------------------ names and manifests


def test_a_queue_id_keeps_the_case_of_its_short_id_and_a_job_name_does_not():
    assert QUEUE.id == "loader-btcusdt-api-trades-2025-06-01-P4nTkv"
    assert launcher.telemetry_id("arango-connector", "P4nTkv") == "arango-connector__P4nTkv"
    assert (
        launcher.job_name(QUEUE.id, "arango-connector")
        == "loader-btcusdt-api-trades-2025-06-01-p4ntkv-arango-connector"
    )


def test_a_symbol_is_lower_cased_but_not_sanitized_in_the_queue_id():
    queue = launcher.Queue.launch("BTC.USDT", "api_candles_5m", "2025-06-01", "abcdef")
    assert queue.id == "loader-btc.usdt-api-candles-5m-2025-06-01-abcdef"
    assert launcher.job_name(queue.id, "x").startswith("loader-btc-usdt-")


def test_short_ids_hold_no_look_alikes():
    made = "".join(launcher.short_id(random.Random(seed)) for seed in range(500))
    assert set(made) == set(launcher.SHORT_ID_ALPHABET)
    assert not set("01IOl") & set(made)


def test_the_documentations_main_example_is_a_name_kubernetes_refuses():
    queue = launcher.Queue.launch("BTCUSDT", "api_candles_5m", "2025-06-01", "6yQce8")
    assert len(launcher.job_name(queue.id, "arango-connector")) == launcher.LONGEST_JOB_NAME + 1


@pytest.mark.parametrize("target", sorted(SERVICE_OF_TARGET))
def test_manifests_and_names_are_those_of_the_launcher(target: str, captures_dir: Path):
    recorded = json.loads((captures_dir / "jobs.json").read_text())["targets"][target]
    env = {entry["name"]: entry["value"] for entry in _container(recorded["manifest"])["env"]}
    short = recorded["queue"]["short_id"]
    day = re.search(r"\d{4}-\d\d-\d\d", recorded["queue"]["queue_id"])
    assert day is not None
    until = env.get("TIME_RANGE", "").partition(":")[2]
    queue = launcher.Queue.launch(env["SYMBOL"], env["TYPE"], day[0], short, until=until)
    assert queue.id == recorded["queue"]["queue_id"]

    known = launcher.environment(queue, target)
    made = launcher.job_manifest(
        queue,
        target,
        launcher.environment(queue, target, extra={name: env[name] for name in env.keys() - known.keys()}),
        image=_container(recorded["manifest"])["image"],
    )

    assert _container(made)["env"][:16] == _container(recorded["manifest"])["env"][:16]
    assert {entry["name"]: entry["value"] for entry in _container(made)["env"]} == env
    _container(made)["env"] = _container(recorded["manifest"])["env"]
    assert made == recorded["manifest"]


def test_a_manifest_is_written_as_the_launcher_writes_it():
    env = launcher.environment(QUEUE, "arango-connector")
    assert list(env.items())[:5] == [
        ("QUEUE_ID", "loader-btcusdt-api-trades-2025-06-01-P4nTkv"),
        ("SYMBOL", "BTCUSDT"),
        ("TYPE", "api_trades"),
        ("KAFKA_TOPIC", "loader-btcusdt-api-trades-2025-06-01-P4nTkv"),
        ("TELEMETRY_PRODUCER_ID", "arango-connector__P4nTkv"),
    ]
    assert env["COLLECTION_NAME"] == "btcusdt_trades_2025_06_01"
    assert env["TIME_RANGE"] == "2025-06-01:2025-06-30"
    name = "loader-btcusdt-api-trades-2025-06-01-p4ntkv-arango-connector"
    container = {
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "image": "registry.example/streamforge/arango-connector:v0.1.0",
        "imagePullPolicy": "Always",
        "name": name,
    }
    assert launcher.job_manifest(QUEUE, "arango-connector", env) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "stf"},
        "spec": {
            "backoffLimit": 4,
            "template": {"spec": {"containers": [container], "restartPolicy": "Never"}},
            "ttlSecondsAfterFinished": 3600,
        },
    }


def _container(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]["containers"][0]


# ------------------------------------------------------------------ dialects


def recorded_shapes(captures_dir: Path) -> dict[tuple[str, str, bool | None], set[tuple[str, ...]]]:
    """Keys in their order, of each message recorded, by service, kind and `finished`."""
    shapes: dict[tuple[str, str, bool | None], set[tuple[str, ...]]] = {}
    for line in (captures_dir / "dialects.jsonl").read_text().splitlines():
        sample = json.loads(line)
        if sample["dialect"] != "python-repr":
            key = (sample["service"], sample["kind"], sample.get("finished"))
            fields = json.loads(sample["value_text"])
            shapes.setdefault(key, set()).add(tuple(_typed(fields)))
    return shapes


def _typed(fields: dict[str, Any]) -> list[str]:
    return [f"{name}:{type(value).__name__}" for name, value in fields.items()]


def made_messages(service: Service) -> list[dict[str, Any]]:
    made: list[bytes | None] = []
    for story in Story:
        speaker = process(service.name, TIME_RANGE="2025-06-01:2025-06-30", K8S_NAMESPACE="")
        made += [speaker.started(EPOCH), speaker.opening(EPOCH), speaker.loading(EPOCH)]
        made += [speaker.pong(EPOCH, EPOCH - 0.1)]
        made += [speaker.say(line, EPOCH) for line in (*ending(service, story), *service.bad_record)]
    return [json.loads(value) for value in made if value is not None]


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"docs-1", "docs-2", "streamforge-utils"}))
def test_every_message_has_the_fields_of_a_recorded_one_in_their_order(name: str, captures_dir: Path):
    shapes = recorded_shapes(captures_dir)
    names = {"gnn-trainer": ("gnn-trainer",)}.get(name, (name,))
    recorded = {key for key in shapes if key[0] in names}
    assert recorded
    met = set()
    for fields in made_messages(SERVICES[name]):
        key = (name, fields.get("status") or fields["event"], fields.get("finished"))
        if key not in shapes and name == "gnn-trainer":
            continue  # its end was read in its code, never recorded
        shape = tuple(typed.replace("k8s_namespace:str", "k8s_namespace:NoneType") for typed in _typed(fields))
        if shape in shapes[key]:
            met.add(key)
        else:
            assert name == "gnn-trainer", shape  # its loading beside epochs was read, not recorded
    assert met == recorded


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"docs-1", "docs-2", "streamforge-utils"}))
def test_every_text_that_was_recorded_is_said(name: str, captures_dir: Path):
    said = {
        re.sub(r"[\d.]+", "0", fields["message"]) for fields in made_messages(SERVICES[name]) if "message" in fields
    }
    for line in (captures_dir / "dialects.jsonl").read_text().splitlines():
        sample = json.loads(line)
        if sample["service"] == name and sample["kind"] != "pong":
            assert re.sub(r"[\d.]+", "0", json.loads(sample["value_text"])["message"]) in said


_EVENT = (
    "event:str queue_id:str symbol:str type:str producer:str sent_at:float status:str message:str finished:bool "
    "records_written:int"
)
_KAFKA = "kafka:str kafka_user:{} kafka_topic:str"
_ARANGO = "arango_url:str arango_db:str collection_name:str"
#: What the recorded messages of each dialect hold, in their order; an error adds `error_message` at the end.
FIELDS_OF_DIALECT = {
    Dialect.STATUS: f"{_EVENT} {_KAFKA.format('NoneType')} {_ARANGO}",
    Dialect.STATUS_WITHOUT_ARANGO: f"{_EVENT} {_KAFKA.format('NoneType')}",
    Dialect.STATUS_DUMMY: (
        f"{_EVENT} time_range:str {_KAFKA.format('str')} k8s_namespace:str arango_url:str arango_db:str "
        "loader_image:NoneType consumer_image:NoneType"
    ),
    Dialect.MONOTONIC: "producer_id:str timestamp:float status:str message:str finished:bool records_written:int",
    Dialect.TELEMETRY_ID: (
        "queue_id:str telemetry_id:str status:str message:str timestamp:float producer:str finished:bool"
    ),
    Dialect.DOCS_EVENT: "queue_id:str event:str timestamp:str payload:dict",
    Dialect.DOCS_STATUS: (
        "queue_id:str producer:str symbol:str type:str status:str message:str records_written:int finished:bool "
        "timestamp:float"
    ),
}
PONG = "event:str queue_id:str symbol:str type:str producer:str sent_at:float ping_ts:float ponged_at:float"
LEARNS = {"epoch:int", "loss:float", "model_filename:str"}  # the fields that gnn-trainer adds


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"streamforge-utils"}))
def test_every_message_has_the_fields_of_its_dialect_in_their_order(name: str):
    known = FIELDS_OF_DIALECT[SERVICES[name].dialect].split()
    for fields in made_messages(SERVICES[name]):
        typed = _typed(fields)
        if fields.get("event") == "pong":
            assert typed == PONG.split()
        else:
            extra = typed[len(known) :]
            assert typed[: len(known)] == known
            assert extra in ([], ["error_message:str"]) or (name == "gnn-trainer" and LEARNS.issuperset(extra))


def test_dialect_b_has_a_monotonic_clock_and_no_queue():
    value = process("loader-api-candles").started(EPOCH)
    fields = json.loads(value)
    assert fields["timestamp"] == 900_000.0
    assert not {"queue_id", "event", "symbol"} & fields.keys()
    assert fields["producer_id"] == "loader-producer__P4nTkv"


def test_dialect_e_is_a_python_repr():
    value = process("streamforge-utils").started(EPOCH)
    assert value.startswith(b"{'queue_id': 'loader-btcusdt-")
    assert b"'error_message': None" in value
    with pytest.raises(json.JSONDecodeError):
        json.loads(value)


def test_docs_1_names_a_queue_and_no_producer():
    fields = json.loads(process("docs-1").started(EPOCH))
    assert list(fields) == ["queue_id", "event", "timestamp", "payload"]
    assert fields["timestamp"] == "2025-09-04T15:33:20Z"


def test_docs_2_has_the_fields_of_the_page(captures_dir: Path):
    (shape,) = recorded_shapes(captures_dir)["(docs: part-1-architecture.md)", "loading", None] or {()}
    fields = json.loads(process("docs-2").loading(EPOCH) or b"{}")
    assert tuple(_typed(fields)) == shape


def test_text_outside_ascii_is_escaped():
    assert b"\\u041c" in process("dummy-service").started(EPOCH)


def test_two_processes_of_one_env_report_under_the_same_ids():
    one, two = process("arango-connector"), process("arango-connector")
    assert one.started(EPOCH) == two.started(EPOCH)


# ------------------------------------------------------------------ endings and cadence


def test_a_consumer_that_is_stopped_says_finished_after_interrupted():
    told = tell("arango-connector", Story.STOP)
    assert kinds(told)[-3:] == [("interrupted", True), ("interrupted", False), ("finished", True)]
    assert told[-1][0] - told[-3][0] < 0.15


@pytest.mark.parametrize("name", ["loader-api-candles", "loader-api-trades", "loader-ws-trades"])
def test_a_loader_that_is_stopped_says_interrupted_twice_and_nothing_more(name: str):
    assert kinds(tell(name, Story.STOP))[-3:] == [
        ("loading", False),
        ("interrupted", True),
        ("interrupted", False),
    ]


def test_loader_producer_says_interrupted_twice_with_finished_true():
    assert kinds(tell("loader-producer", Story.STOP))[-2:] == [("interrupted", True)] * 2


def test_a_consumer_goes_on_after_an_error_for_one_record():
    said = kinds(tell("arango-trades", Story.BAD_RECORDS, until=5000.0))
    errors = [place for place, what in enumerate(said) if what == ("error", False)]
    assert len(errors) > 20
    assert all(("loading", False) in said[place:] for place in errors[:-3])


def test_a_consumer_that_dies_says_error_and_at_once_finished():
    assert kinds(tell("graph-builder", Story.FATAL))[-2:] == [("error", False), ("finished", True)]


def test_loader_producer_that_dies_says_both_with_finished_true():
    assert kinds(tell("loader-producer", Story.FATAL))[-2:] == [("error", True), ("finished", True)]


@pytest.mark.parametrize("name", ["loader-api-candles", "loader-ws-orderbook"])
def test_other_loaders_that_die_say_one_bare_error(name: str):
    assert kinds(tell(name, Story.FATAL))[-2:] == [("loading", False), ("error", False)]


def test_the_dummy_that_fails_says_error_with_finished_true_and_exits_with_1():
    assert kinds(tell("dummy-service", Story.FATAL))[-1] == ("error", True)
    assert SERVICES["dummy-service"].exit_code_after_fatal == 1


def test_consumers_never_end_by_themselves():
    assert all(not SERVICES[name].finish for name in CONSUMERS)


def test_a_misfed_consumer_says_loading_once_and_then_an_error_for_every_record():
    said = kinds(tell("arango-candles", Story.MISFED))
    assert said[:2] == [("started", False), ("loading", False)]
    assert set(said[2:]) == {("error", False)}
    assert len(said) > 100


def test_the_counter_is_0_in_errors_of_consumers_and_in_the_control_listeners_word():
    told = [json.loads(value) for _, value in tell("arango-connector", Story.STOP)]
    assert [fields["records_written"] for fields in told[-3:-1]] == [0, 0]
    assert told[-1]["records_written"] == told[-4]["records_written"] > 0


def test_loader_producer_and_the_dummy_send_no_loading_before_data():
    for name in ("loader-producer", "dummy-service"):
        first = json.loads(tell(name, Story.HEALTHY)[1][1])
        assert (first["status"], first["records_written"] > 0) == ("loading", True)


def test_the_visualizer_never_sends_loading():
    assert kinds(tell("visualizer", Story.TERMINATE)) == [("started", False), ("finished", True)]


def test_only_the_dummy_answers_pings():
    assert ("pong", None) in kinds(tell("dummy-service", Story.STARTED_ONLY, pinged=True))
    assert kinds(tell("arango-connector", Story.STARTED_ONLY, pinged=True)) == [("started", False)]


def test_a_mute_loader_says_nothing():
    assert tell("loader-ws-orderbook", Story.MUTE) == []


def test_a_story_told_twice_is_the_same():
    assert tell("arango-candles", Story.BAD_RECORDS) == tell("arango-candles", Story.BAD_RECORDS)


# ------------------------------------------------------------------ captures


@pytest.fixture(scope="module")
def capture():
    return generate_capture(7)


def test_a_seed_gives_the_same_capture_again_and_another_seed_another(capture):
    assert generate_capture(7) == capture
    assert generate_capture(8).lines != capture.lines


def test_a_capture_has_the_files_and_fields_of_the_recorded_ones(capture, captures_dir: Path, tmp_path: Path):
    write_capture(tmp_path, "made", capture)
    recorded = captures_dir / "captures"
    for end in ("jobs.json", "truth.json"):
        made = json.loads((tmp_path / f"made.{end}").read_text())
        real = json.loads((recorded / f"01_normal.{end}").read_text())
        if end == "jobs.json":
            assert made[0].keys() == real[0].keys()
            assert list(made[0]["env"])[:16] == list(real[0]["env"])[:16]
        else:
            assert made.keys() <= real.keys()
            one, other = next(iter(made["jobs"].values())), next(iter(real["jobs"].values()))
            assert one.keys() <= other.keys()
    assert capture.lines[0].keys() == {"at", "partition", "key", "value_b64"}


def test_a_capture_has_the_files_and_fields_that_replay_reads(capture, tmp_path: Path):
    file = write_capture(tmp_path, "made", capture)
    assert [(line.at, line.partition) for line in read_file(file)] == [
        (line["at"], line["partition"]) for line in capture.lines
    ]
    assert {listed.fact.key for listed in read_jobs(tmp_path / "made.jobs.json")} == {
        f"{job['namespace']}/{job['name']}" for job in capture.jobs
    }
    truth = read_truth(tmp_path / "made.truth.json")
    assert {name: row.verdict for name, row in truth.jobs.items()} == {
        name: row["verdict"] for name, row in capture.truth["jobs"].items()
    }


def test_lines_come_in_order_of_arrival_over_all_partitions(capture):
    times = [line["at"] for line in capture.lines]
    assert times == sorted(times)
    assert {line["partition"] for line in capture.lines} == {0, 1, 2}
    assert capture.truth["capture_start"] <= times[0]
    assert times[-1] <= capture.truth["capture_end"]


def test_every_verdict_and_every_scene_is_there(capture):
    verdicts = Counter(row["verdict"] for row in capture.truth["jobs"].values())
    assert verdicts.keys() == {"healthy", "stuck", "never_started", "failed", "interrupted", "completed"}
    assert len(capture.jobs) == len(SCENES) + 6
    shared = Counter(job["env"]["QUEUE_ID"] for job in capture.jobs)
    assert sum(count == 2 for count in shared.values()) == 3


def test_only_sick_jobs_have_a_window_and_it_lies_within_the_capture(capture):
    for row in capture.truth["jobs"].values():
        sick = row["verdict"] in {"stuck", "failed", "never_started"}
        assert (row["not_before"] is not None) is sick
        if sick:
            assert capture.truth["capture_start"] < row["not_before"] < row["not_after"]
            assert row["not_after"] <= capture.truth["capture_end"]


def test_no_healthy_job_is_silent_for_the_threshold(capture):
    told: dict[str, list[float]] = {}
    for line in capture.lines:
        value = base64.b64decode(line["value_b64"])
        for job in capture.jobs:
            producer, queue = job["env"]["TELEMETRY_PRODUCER_ID"], job["env"]["QUEUE_ID"]
            named = producer.encode() in value or (b'"payload"' in value and queue.encode() in value)
            if named and (b'"loading"' in value or b'"started"' in value):
                told.setdefault(job["name"], []).append(line["at"])
    for name, row in capture.truth["jobs"].items():
        if row["verdict"] == "healthy":
            times = [*told[name], capture.truth["capture_end"]]
            assert max(after - before for before, after in pairwise(times)) < 300


def test_job_names_are_such_as_kubernetes_takes(capture):
    for job in capture.jobs:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["name"])
        assert len(job["name"]) <= 63


def test_garbage_is_interleaved_and_can_be_left_out(capture):
    clean = generate_capture(7, with_garbage=False)
    assert len(clean.lines) < len(capture.lines)
    unreadable = 0
    for line in capture.lines:
        try:
            unreadable += not isinstance(json.loads(base64.b64decode(line["value_b64"])), dict)
        except (ValueError, RecursionError):
            unreadable += 1
    assert unreadable > 50
