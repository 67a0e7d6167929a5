"""A Job that falls silent, on a real cluster and a real broker: made, heard, and looked at from outside."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

from sf_healer import topics
from sf_healer.adapters.cluster import ApiFailure, LiveJob
from sf_healer.core import commands
from sf_healer.core.commands import Outcome, Result
from sf_healer.local import launcher
from tests.lab.worker import records_of, send

if TYPE_CHECKING:
    from sf_healer.adapters.cluster import Cluster

_TARGET = "loader-producer"


class Sick:
    """A Job that says `loading` and falls silent."""

    def __init__(self, cluster: Cluster, bootstrap: str) -> None:
        self.queue = launcher.Queue.launch("BTCUSDT", "api_trades", "2025-06-01", secrets.token_hex(3))
        self.name = launcher.job_name(self.queue.id, _TARGET)
        self.cluster = cluster
        self.bootstrap = bootstrap

    def create(self) -> LiveJob:
        """Make it, and give its first incarnation."""
        namespace, env = self.cluster.namespace, launcher.environment(self.queue, _TARGET)
        manifest = launcher.job_manifest(self.queue, _TARGET, env, namespace=namespace)
        made = self.cluster.create_job(namespace, manifest)
        assert isinstance(made, LiveJob), made
        return made

    def look(self) -> LiveJob | None:
        """Give the incarnation that is there, None while there is none."""
        answer = self.cluster.read_job(self.cluster.namespace, self.name)
        if isinstance(answer, ApiFailure):
            assert answer.status == 404, answer
            return None
        return answer

    async def says(self, *words: str) -> None:
        """Report as its process would."""
        named = {"queue_id": self.queue.id, "producer": launcher.telemetry_id(_TARGET, self.queue.short)}
        says = [{**named, "status": word, "event": word, "finished": False} for word in words]
        await send(self.bootstrap, [json.dumps(each).encode() for each in says])

    async def outcomes(self) -> list[Outcome]:
        """Give what became of the commands for it, in order."""
        found = [commands.decode_outcome(each.value) for each in await records_of(self.bootstrap, topics.OUTCOMES)]
        key = f"{self.cluster.namespace}/{self.name}"
        return [outcome for outcome in found if isinstance(outcome, Outcome) and outcome.key == key]

    async def results(self) -> set[Result]:
        """Give how they ended."""
        return {outcome.result for outcome in await self.outcomes()}
