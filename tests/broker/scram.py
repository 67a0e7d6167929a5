"""What the tests of a secured Kafka share: the shipped users on the lab's brokers, commands and workers as them."""

from __future__ import annotations

import json
import secrets
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sf_healer.rights import Purpose
from tests.lab.kafka import Acl, KafkaCluster, acls_of, allow
from tests.lab.worker import Worker, make_topics

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFESTS = Path(__file__).parents[2] / "manifests" / "kafka"
#: Who writes the reports; not a user of ours.
PLATFORM = "platform"
COMMAND_SECONDS = 90.0
POLICY = """\
[defaults]
reporting = true
silence_threshold_seconds = 4
startup_threshold_seconds = 8
error_grace_seconds = 1
"""


class Secured:
    """A Kafka where each shipped user exists, with its shipped ACLs and a password of its own."""

    def __init__(self, cluster: KafkaCluster, passwords: dict[str, str]) -> None:
        self.cluster = cluster
        self.passwords = passwords

    @classmethod
    @contextmanager
    def start(cls, directory: Path, **settings: str) -> Iterator[Secured]:
        """Start it; no topic is there, nobody may do anything yet. `settings` are the brokers', with _ for a dot."""
        passwords = {user: secrets.token_hex(12) for user in (*(name_of(purpose) for purpose in Purpose), PLATFORM)}
        named = {name.replace("_", "."): value for name, value in settings.items()}
        with KafkaCluster.start(directory=directory, heap="512m", users=passwords, settings=named) as cluster:
            yield cls(cluster, passwords)

    async def prepare(self) -> None:
        """Make all topics and allow every user what its manifest says."""
        await make_topics(self.cluster.bootstrap)
        for purpose in Purpose:
            await allow(self.cluster.bootstrap, name_of(purpose), acls_for(purpose))
        await allow(self.cluster.bootstrap, PLATFORM, [Acl("topic", "queue-events", "literal", "Write")])

    def login(self, user: str) -> dict[str, str]:
        """Give the settings by which a user gets in, without their prefix."""
        password = self.passwords[user]
        return {"sasl_username": user, "sasl_password": password, "ca_file": str(self.cluster.ca_file)}

    def login_by_files(self, user: str, directory: Path) -> dict[str, str]:
        """Give the same with files of our own, as a mounted Secret has them."""
        files = {name: directory / name for name in ("user", "password", "ca.crt")}
        directory.mkdir(parents=True, exist_ok=True)
        files["user"].write_text(user)
        files["password"].write_text(self.passwords[user])
        files["ca.crt"].write_text(self.cluster.ca_file.read_text())
        return {
            "sasl_username_file": str(files["user"]),
            "sasl_password_file": str(files["password"]),
            "ca_file": str(files["ca.crt"]),
        }

    def worker(self, name: str, directory: Path, **settings: object) -> Worker:
        """Compose a worker that sees no cluster and judges quickly."""
        directory.mkdir(exist_ok=True)
        policy = directory / "policy.toml"
        policy.write_text(POLICY)
        chosen: dict[str, object] = {
            "identity": "convention",
            "policy_file": policy,
            "mark_interval_seconds": 0.2,
            "sweep_window_seconds": 0.5,
            **settings,
        }
        return Worker(name, directory, bootstrap=self.cluster.secure_bootstrap, **chosen)

    def command(self, directory: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a command of sf-healer to its end."""
        asked = Worker("asked", directory, bootstrap=self.cluster.secure_bootstrap, **settings)
        line = asked.command(*arguments)
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)


class Job:
    """A Job of a test's own, and what it says."""

    def __init__(self) -> None:
        self.short = secrets.token_hex(3)
        self.queue = f"loader-btcusdt-api-trades-2025-06-01-{self.short}"
        self.key = f"stf/{self.queue}-arango-connector"

    def says(self, status: str) -> bytes:
        """Compose a report."""
        named = {"queue_id": self.queue, "producer": f"arango-connector__{self.short}", "status": status}
        return json.dumps(named).encode()


def name_of(purpose: Purpose) -> str:
    """Give the name of the user that is shipped for a purpose."""
    return str(_manifest(purpose)["metadata"]["name"])


def acls_for(purpose: Purpose) -> list[Acl]:
    """Give the ACLs that are shipped for a purpose."""
    return acls_of(_manifest(purpose))


def _manifest(purpose: Purpose) -> dict[str, dict[str, object]]:
    manifest: dict[str, dict[str, object]] = yaml.safe_load((MANIFESTS / f"user-{purpose}.yaml").read_text())
    return manifest
