"""What any test may ask for: real components (started once a session, on first use), captures, profiles.

Tests that use a real component carry its marker: `kafka` and `kube` (the fixtures below put them on), `prometheus`,
`browser`. Without the component such a test is skipped with the reason, and fails instead where CI=true: a CI that
skips what it is there for proves nothing (tests/lab/wanting.py).
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.lab import argo, browser, checkers, crds, kafka, kube, loops, prometheus, toxiproxy, traefik, wanting

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER_OF_FIXTURE = {"kafka_single": "kafka", "kafka_three": "kafka", "control_plane": "kube"}
MISSING = {
    "kafka": functools.cache(kafka.missing),
    "kube": functools.cache(kube.missing),
    "prometheus": functools.cache(prometheus.missing),
    "browser": functools.cache(browser.missing),
    "crds": functools.cache(crds.missing),
    "argo": functools.cache(argo.missing),
    "image": functools.cache(checkers.missing),
    "toxiproxy": functools.cache(toxiproxy.missing),
    "traefik": functools.cache(traefik.missing),
}
RUNNING = pytest.StashKey[dict[str, "kafka.KafkaCluster | kube.ControlPlane"]]()  # by the fixture that lends it
#: By fixture, the files with a test that asks for these brokers; of a single one every test that is marked `kafka` may.
ASKING = pytest.StashKey[dict[str, set[Path]]]()

# No deadlines: the two cores are shared with brokers and a control plane, a slow example is not a fault.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("ci" if wanting.IN_CI else "local")


# Whoever starts us in the background has a shell that ignores Ctrl-C, and what we start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: The first of the simulation's fresh seeds, the same in every process of a run.
FRESH_SEEDS = "SIMULATION_FRESH_FROM"
os.environ.setdefault(FRESH_SEEDS, str(secrets.randbelow(10**9)))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUNNING] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"simulation: fresh seeds from {os.environ[FRESH_SEEDS]} on")
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()) if report.longrepr]
    if skipped := sum(wanting.NO_CAPTURES in reason for reason in reasons):
        terminalreporter.write_line(
            f"captures: {skipped} tests skipped for want of recorded ones, made-up ones were read"
        )


#: `make test-lab` hands files out to four processes: the longest go first, so that none of them runs alone at the end.
#: Those that share three brokers go to one process, where these are started once.
WITH_THREE_BROKERS = (
    "tests/scenarios/test_endurance.py",
    "tests/cluster/test_actuator_worker.py",
    "tests/broker/test_doctor_kafka.py",
    "tests/broker/test_lab_kafka.py",
    "tests/broker/test_rolling_update.py",
    "tests/broker/test_three_workers.py",
    "tests/broker/test_topics_admin.py",
    "tests/broker/test_transport_failover.py",
)
LONGEST_FIRST = (
    "tests/scenarios/test_killed.py",
    *WITH_THREE_BROKERS,
    "tests/chaos/test_game_day.py",
    "tests/scenarios/test_fifty_jobs.py",
    "tests/broker/test_scram.py",
    "tests/argo/",
    "tests/chaos/",
    "tests/manifests/",
)


class _Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "three brokers" if file in WITH_THREE_BROKERS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return _Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)  # before -m deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_place)
    for item in items:
        for name, marker in MARKER_OF_FIXTURE.items():
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


def _place(item: pytest.Item) -> int:
    long = (place for place, start in enumerate(LONGEST_FIRST) if item.nodeid.startswith(start))
    return next(long, len(LONGEST_FIRST))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in MISSING.items():
        if item.get_closest_marker(marker) is not None and (reason := missing()) is not None:
            wanting.without(reason)


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_protocol() -> Iterator[object]:
    """Let a test that runs a command in this process, which sets up its log, have it for itself."""
    settings_before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return (yield)
    finally:
        structlog.configure(**settings_before)
        root.handlers[:] = handlers
        root.setLevel(level)


def _configure_without_cache(**settings: Any) -> None:
    """Set up structlog, and keep no logger as it was first used: it would be that in every test to come."""
    _configure(**{**settings, "cache_logger_on_first_use": False})


_configure, structlog.configure = structlog.configure, _configure_without_cache


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Give the next test whole components, whatever this one killed or froze, and a thread in which no loop runs.

    Brokers that nobody in its file asks for rest meanwhile: with nothing to do three take a fifteenth of a core.
    """
    running, asking = item.config.stash[RUNNING], item.config.stash[ASKING]
    if nextitem is not None:
        for name, component in running.items():
            if name not in asking or {item.path, nextitem.path} & asking[name]:  # what tears down asks for them, too
                component.make_whole()
    try:
        return (yield)
    finally:
        loops.leave_none_running()
        for name, paths in asking.items():
            if nextitem is not None and nextitem.path not in paths and name in running:
                running[name].stop()


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[ASKING] = {
        "kafka_single": {item.path for item in session.items if item.get_closest_marker("kafka") is not None},
        "kafka_three": {item.path for item in session.items if _asks_for_three(item)},
    }


def _asks_for_three(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return "kafka_three" in (*getattr(item, "fixturenames", ()), *(callspec.params.values() if callspec else ()))


@pytest.fixture(scope="session")
def kafka_single(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[kafka.KafkaCluster]:
    directory = tmp_path_factory.mktemp("kafka-single")
    yield from _lend_kafka(request, kafka.KafkaCluster.start(brokers=1, directory=directory))


@pytest.fixture(scope="session")
def kafka_three(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[kafka.KafkaCluster]:
    directory = tmp_path_factory.mktemp("kafka-three")
    yield from _lend_kafka(request, kafka.KafkaCluster.start(brokers=3, directory=directory))


@pytest.fixture(scope="session")
def control_plane(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[kube.ControlPlane]:
    with kube.ControlPlane.start(tmp_path_factory.mktemp("control-plane")) as plane:
        request.config.stash[RUNNING]["control_plane"] = plane
        yield plane
        del request.config.stash[RUNNING]["control_plane"]
    shutil.rmtree(plane.directory / "etcd")  # the logs stay, pytest keeps the last three sessions' directories


@pytest.fixture(scope="session")
def captures_dir() -> Path:
    """Give the directory of recorded captures, which is not part of the repository: skip without it."""
    return wanting.captures() or wanting.without_captures()


def _lend_kafka(request: pytest.FixtureRequest, started: kafka.KafkaCluster) -> Iterator[kafka.KafkaCluster]:
    assert request.fixturename is not None
    with started as cluster:
        request.config.stash[RUNNING][request.fixturename] = cluster
        yield cluster
        del request.config.stash[RUNNING][request.fixturename]
    for data in cluster.directory.glob("broker-*/data"):
        shutil.rmtree(data)
