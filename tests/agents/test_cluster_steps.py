"""What a step of a restart means when the API is away, and when it heard us and did not answer."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from agents.cluster_steps import take
from sf_healer.adapters.cluster import Cluster
from sf_healer.core.actions import Action, State
from sf_healer.core.commands import Command, Grounds
from sf_healer.core.steps import Step, What

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANIFEST = {"metadata": {"name": "a", "namespace": "stf"}, "spec": {"template": {"spec": {}}}}
COMMAND = Command(
    id="c1",
    key="stf/a",
    namespace="stf",
    name="a",
    uid="u1",
    verdict="stuck",
    evidence=Grounds(),
    decided_at=1000.0,
    expires_at=1060.0,
)
ACTION = Action(
    command=COMMAND, observe_only=False, state=State.GONE, since=1000.0, due_at=1000.0, uid="u1", manifest=MANIFEST
)


def cluster_at(port: int, directory: Path) -> Cluster:
    kubeconfig = directory / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    kubeconfig.write_text(json.dumps(content))
    return Cluster.connect(namespace="stf", kubeconfig=str(kubeconfig))


@contextmanager
def hears_and_hangs_up() -> Iterator[int]:
    """Listen on a port, read each request and answer none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("step", Step)
def test_with_nobody_to_ask_nothing_has_happened_and_the_step_is_taken_later(tmp_path, step):
    result = take(cluster_at(1, tmp_path), ACTION, step)
    assert result.what is What.LATER
    assert "nothing listens at" in result.message


@pytest.mark.parametrize("step", Step)
def test_of_a_request_that_was_heard_and_not_answered_the_result_is_unknown(tmp_path, step):
    with hears_and_hangs_up() as port:
        assert take(cluster_at(port, tmp_path), ACTION, step).what is What.UNKNOWN
