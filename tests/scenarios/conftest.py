"""Where the stories of fifty Jobs play (ground.py), lent to the tests."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lab.api_proxy import ApiProxy
from tests.lab.kafka import KafkaCluster
from tests.lab.kube.rules import RULES
from tests.lab.worker import make_topics
from tests.scenarios.ground import Ground

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab.kube import ControlPlane


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    quick = {"group.min.session.timeout.ms": "1000"}
    with KafkaCluster.start(brokers=3, directory=tmp_path_factory.mktemp("brokers"), settings=quick) as cluster:
        yield cluster


@pytest.fixture
def ground(brokers: KafkaCluster, control_plane: ControlPlane, tmp_path: Path) -> Iterator[Ground]:
    asyncio.run(make_topics(brokers.bootstrap))
    namespace = control_plane.create_namespace()
    own = control_plane.service_account(namespace, "healer", RULES)
    seed = int(os.environ.get("STORY_SEED") or random.SystemRandom().randrange(10**6))
    with ApiProxy.before(control_plane.kubeconfig) as proxy:
        kubeconfig = proxy.kubeconfig(own, at=tmp_path / "kubeconfig")
        ground = Ground(brokers, control_plane, proxy, namespace, kubeconfig, tmp_path, seed)
        yield ground
        brokers.make_whole()
        ground.remove()


@pytest.fixture
def tell(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Write a line for people, past pytest's capture: the numbers of a run are its result.

    A process of pytest-xdist has no terminal: there they are with what the test printed.
    """
    reporter = request.config.pluginmanager.getplugin("terminalreporter")

    def line(text: str) -> None:
        told = f"{request.node.name}: {text}"
        if reporter is None:
            sys.stdout.write(f"{told}\n")
            return
        with capsys.disabled():
            reporter.write_line(told)

    return line
