"""`make demo`: the whole of sf-healer on this machine, with five Jobs of which two are sick.

Everything on the path is real: the worker is the one that is deployed, the client is Kubernetes' own, the loaders
are processes that report over Kafka. Only broker and cluster are small stand-ins (sf_healer/local), and the
thresholds are seconds instead of minutes.
"""

import asyncio
import json
import os
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sf_healer import access, topics
from sf_healer.adapters import http, kafka
from sf_healer.adapters.cluster import ApiFailure, Cluster
from sf_healer.local import children, launcher
from sf_healer.local.broker import EmbeddedBroker
from sf_healer.local.cluster import LocalCluster
from sf_healer.local.loader import BEHAVIOUR, CADENCE, TURN, Behaviour
from sf_healer.local.ports import free_port_with_free_neighbour
from sf_healer.settings import PREFIX, Mode, Settings, address_of, load
from sf_healer.settings import Role as WorkerRole

NAMESPACE = "stf"
READY_SECONDS = 60.0
#: Both sick Jobs must be well again this long after the worker is ready.
HEALED_SECONDS = 60.0
#: Then nothing more may be restarted for this long.
QUIET_SECONDS = 5.0
#: By its first line the file for another shell is known for one of ours.
_OURS = "# Of a running `sf-healer demo`, which removes this file at its end."
STOP_AFTER_SECONDS = 8.0
POLL_SECONDS = 0.5
WORKER_GRACE_SECONDS = 15.0

POLICY = """\
# Seconds where the shipped policy has minutes, so that the demo fits into one.
[defaults]
reporting = true
silence_threshold_seconds = 6
startup_threshold_seconds = 20
error_grace_seconds = 3
stop_hold_seconds = 10

[admission]
backoff_seconds = 2
refused_retry_seconds = 2
storm_window_seconds = 10
storm_canary_after_seconds = 10
"""


class Role(msgspec.Struct, frozen=True):
    """One Job of the demo: what it does, and what sf-healer should make of it."""

    title: str
    target: str
    behaviour: Behaviour
    restarted: bool
    verdict: str


CAST = (
    Role("loads steadily", "arango-connector", Behaviour.HEALTHY, restarted=False, verdict="healthy"),
    Role("hangs", "loader-ws", Behaviour.HANGS, restarted=True, verdict="healthy"),
    Role("says error", "loader-producer", Behaviour.ERRORS, restarted=True, verdict="healthy"),
    Role("finishes", "loader-producer", Behaviour.FINISHES, restarted=False, verdict="completed"),
    Role("is stopped by its user", "arango-connector", Behaviour.STOPPABLE, restarted=False, verdict="stopped"),
)
_SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")


class DemoFailed(Exception):  # noqa: N818  # it says what happened
    """Something of the demo's own did not come up; the message says what and where to look."""


class Seen(msgspec.Struct):
    """What was last seen of one Job, and the incarnations it has had."""

    role: Role
    name: str
    queue_id: str
    uids: list[str]
    row: dict[str, Any]
    outcome: dict[str, Any]

    @property
    def restarts(self) -> int:
        """How often the Job was made again."""
        return max(0, len(self.uids) - 1)

    @property
    def as_expected(self) -> bool:
        """Whether what happened is what should have."""
        return self.restarts == int(self.role.restarted) and self.row.get("verdict") == self.role.verdict


class Demo:
    """One run: stand-ins, worker, Jobs, and what is seen of them."""

    def __init__(self, console: Console, directory: Path, *, env_file: Path | None = None) -> None:
        self.console = console
        self.directory = directory
        self.env_file = env_file
        self.url = ""
        self.seen: list[Seen] = []
        self._ours: dict[str, str] = {}
        self._ready_at = 0.0
        self._stopped = False

    def run(self, *, keep: bool) -> bool:
        """Show it; returns whether what happened is what should have. Raises DemoFailed."""
        with ExitStack() as running:
            broker = running.enter_context(EmbeddedBroker())
            local = running.enter_context(LocalCluster(namespaces=(NAMESPACE,), rules=_rules()))
            settings, cluster = self._start(running, broker, local)
            self._create_jobs(cluster, settings)
            if self.env_file is not None:
                running.callback(self.env_file.unlink, missing_ok=True)
                self._write_env_file(self.env_file, local)
            self._watch(cluster, settings)
            self._summarise()
            if keep:
                self.console.print(f"\nStaying up, Ctrl-C ends it. Look at {self.url}/")
                if self.env_file is not None:
                    self.console.print(f"or, in another shell:  . {self.env_file}; sf-healer jobs")
                with _live(self.console) as draw:
                    while True:
                        self._look(cluster)
                        draw(self._table())
                        time.sleep(POLL_SECONDS)
        return all(seen.as_expected for seen in self.seen)

    def _start(self, running: ExitStack, broker: EmbeddedBroker, local: LocalCluster) -> tuple[Settings, Cluster]:
        self._ours = self._settings(broker.bootstrap, local.kubeconfig)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environment = inherited | self._ours
        settings = load(environment)
        asyncio.run(_create_topics(settings))
        log = self.directory / "worker.log"
        worker = children.start([sys.executable, "-m", "sf_healer", "worker"], env=environment, log=log)
        running.callback(children.end, worker, grace_seconds=WORKER_GRACE_SECONDS)
        self.url = address_of(settings.web_host, settings.web_port)
        self.console.print(f"Kafka    {broker.bootstrap} (embedded, in memory)")
        self.console.print(f"Cluster  {local.url} (local, pods are processes)")
        self.console.print(f"Worker   {self.url}/  log {log}")
        self._wait_until_ready(worker, log)
        cluster = Cluster.connect(namespace=NAMESPACE, kubeconfig=str(local.kubeconfig))
        running.callback(cluster.close)
        return settings, cluster

    def _settings(self, bootstrap: str, kubeconfig: Path) -> dict[str, str]:
        policy = self.directory / "policy.toml"
        policy.write_text(POLICY)
        return {
            "SF_HEALER_BROKER_URL": f"kafka://{bootstrap}",
            "SF_HEALER_NAMESPACE": NAMESPACE,
            "SF_HEALER_MODE": "heal",
            "SF_HEALER_POLICY_FILE": str(policy),
            "SF_HEALER_KUBECONFIG": str(kubeconfig),
            "SF_HEALER_DATA_DIR": str(self.directory / "data"),
            "SF_HEALER_WEB_PORT": str(free_port_with_free_neighbour()),
            "SF_HEALER_MARK_INTERVAL_SECONDS": "0.5",
            "SF_HEALER_SWEEP_WINDOW_SECONDS": "1",
            # The embedded broker keeps joiners waiting for a session, and ignores LogAppendTime.
            "SF_HEALER_BROKER_SESSION_TIMEOUT_SECONDS": "6",
            "SF_HEALER_BROKER_HEARTBEAT_SECONDS": "1",
            "SF_HEALER_DEMO_ACCEPT_CREATE_TIME": "true",
        }

    def _write_env_file(self, path: Path, local: LocalCluster) -> None:
        """Write what another shell needs to ask this demo: settings, the way to our commands, the pod that loads."""
        (steady,) = (seen.name for seen in self.seen if seen.role.behaviour is Behaviour.HEALTHY)
        (pid,) = (pod.pid for pod in local.pods() if pod.job == steady)
        variables = self._ours | {"KUBECONFIG": self._ours["SF_HEALER_KUBECONFIG"], "STEADY_PID": str(pid)}
        lines = [_OURS, *(f"export {name}={shlex.quote(value)}" for name, value in variables.items())]
        programs = shlex.quote(str(Path(sys.executable).parent))
        path.write_text("\n".join([*lines, f'export PATH={programs}:"$PATH"', ""]))

    def _wait_until_ready(self, worker: children.Process, log: Path) -> None:
        deadline = time.monotonic() + READY_SECONDS
        with self.console.status("Waiting for the worker to be ready"):
            while True:
                if worker.poll() is not None:
                    raise DemoFailed(f"the worker ended with status {worker.poll()}; see {log}\n{_tail(log)}")
                try:
                    http.get_json(f"{self.url}/readyz")
                    break
                except (http.WorkerUnreachableError, http.WorkerRefusedError) as not_yet:
                    if time.monotonic() > deadline:
                        raise DemoFailed(f"not ready in {READY_SECONDS:g} s: {not_yet}\n{_tail(log)}") from None
                time.sleep(POLL_SECONDS)
        self._ready_at = time.monotonic()

    def _create_jobs(self, cluster: Cluster, settings: Settings) -> None:
        chance = random.Random(3)  # noqa: S311  # names, not secrets
        for role, symbol in zip(CAST, _SYMBOLS, strict=True):
            queue = launcher.Queue.launch(symbol, "api_trades", "2025-06-01", launcher.short_id(chance))
            script = {BEHAVIOUR: role.behaviour.value, CADENCE: "1", TURN: "5"}
            bootstrap = ",".join(settings.bootstrap_servers)
            env = launcher.environment(queue, role.target, bootstrap=bootstrap, extra=script)
            created = cluster.create_job(NAMESPACE, launcher.job_manifest(queue, role.target, env, namespace=NAMESPACE))
            if isinstance(created, ApiFailure):
                raise DemoFailed(f"the local cluster refused a Job: {created.message}")
            name = created.fact.key.rpartition("/")[2]
            self.seen.append(Seen(role, name, queue.id, [created.fact.uid], {}, {}))

    def _watch(self, cluster: Cluster, settings: Settings) -> None:
        """Look until all is as it should be and stays so, or time is up."""
        deadline, quiet_since = self._ready_at + HEALED_SECONDS, None
        with _live(self.console) as draw:
            while time.monotonic() < deadline:
                self._maybe_stop_the_last(settings)
                self._look(cluster)
                draw(self._table())
                if not all(seen.as_expected for seen in self.seen):
                    quiet_since = None
                elif quiet_since is None:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since > QUIET_SECONDS:
                    return
                time.sleep(POLL_SECONDS)

    def _maybe_stop_the_last(self, settings: Settings) -> None:
        """Do what the platform does when a user presses stop: a command on queue-control."""
        if not self._stopped and time.monotonic() - self._ready_at > STOP_AFTER_SECONDS:
            self._stopped = True
            asyncio.run(_stop_queue(settings, self.seen[-1].queue_id))

    def _look(self, cluster: Cluster) -> None:
        listing = cluster.list_jobs()
        if not isinstance(listing, ApiFailure):
            facts = {fact.key: fact for fact in listing.facts}
            for seen in self.seen:
                fact = facts.get(f"{NAMESPACE}/{seen.name}")
                if fact is not None and fact.uid not in seen.uids:
                    seen.uids.append(fact.uid)
        for seen in self.seen:
            try:
                row = http.get_json(f"{self.url}/jobs/{NAMESPACE}/{seen.name}/")
            except (http.WorkerUnreachableError, http.WorkerRefusedError):
                continue
            seen.row, seen.outcome = row, row.get("last_outcome") or seen.outcome

    def _table(self) -> Table:
        age = time.monotonic() - self._ready_at
        table = Table(title=f"{age:4.0f} s since the worker is ready", title_justify="left")
        for column in ("this Job", "verdict", "rule", "silent for", "restarts", "last outcome"):
            table.add_column(column, no_wrap=True)
        for seen in self.seen:
            silence = seen.row.get("silence_seconds")
            table.add_row(
                seen.role.title,
                _coloured(seen.row.get("verdict", "…")),
                seen.row.get("rule", ""),
                f"{silence:.1f} s" if silence else "",
                str(seen.restarts),
                " ".join(str(seen.outcome.get(part) or "") for part in ("result", "reason")).strip(),
            )
        return table

    def _summarise(self) -> None:
        table = Table(title="What happened, and whether it should have", title_justify="left")
        for column in ("this Job", "restarts", "verdict", "as it should be"):
            table.add_column(column, no_wrap=True)
        for seen in self.seen:
            verdict = seen.row.get("verdict", "never seen")
            expected = f"{seen.role.verdict}, {int(seen.role.restarted)} restart(s)"
            right = "[green]yes[/]" if seen.as_expected else f"[red]no: {expected}[/]"
            table.add_row(seen.role.title, str(seen.restarts), verdict, right)
        self.console.print(table)


def may_replace(env_file: Path) -> bool:
    """Return whether nothing is lost where a file is written anew: there is none, or an earlier demo left it behind."""
    try:
        with env_file.open("rb") as file:
            return file.readline() == f"{_OURS}\n".encode()
    except OSError:
        return not os.path.lexists(env_file)


def _try_to_write(env_file: Path) -> None:
    """See that a file can be written, and leave none: who waits for it waits for what is in it. Raises DemoFailed."""
    try:
        env_file.parent.mkdir(parents=True, exist_ok=True)
        env_file.touch()
        env_file.unlink()
    except OSError as problem:
        raise DemoFailed(f"{env_file} cannot be written: {problem.strerror}") from None


def run(*, keep: bool, env_file: Path | None = None) -> bool:
    """Run the demo on a terminal or into a pipe; returns whether it went as it should. Raises DemoFailed."""
    if env_file is not None:
        _try_to_write(env_file)
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="sf-healer-demo-") as directory:
        return Demo(console, Path(directory), env_file=env_file).run(keep=keep)


def _rules() -> list[dict[str, list[str]]]:
    """Give the least rights of the demo's worker, as its Role in a cluster would, so that `doctor` finds them right."""
    rights = {need.access for need in access.needed(WorkerRole.ALL, Mode.HEAL)} | access.EVERYBODYS
    return [
        {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]} for right in sorted(rights)
    ]


async def _create_topics(settings: Settings) -> None:
    async with kafka.admin(settings) as admin:
        brokers = await admin.broker_count()
        await admin.create([*topics.specs(settings, brokers), *topics.platform_specs(settings, brokers)])


async def _stop_queue(settings: Settings, queue_id: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=list(settings.bootstrap_servers))
    await producer.start()
    try:
        command = {"queue_id": queue_id, "command": "stop", "sent_at": time.time()}
        await producer.send_and_wait(settings.control_topic, json.dumps(command).encode())
    finally:
        await producer.stop()


@contextmanager
def _live(console: Console) -> Iterator[Any]:
    """Give what draws a table: in place on a terminal, a line per change in a pipe."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield live.update
        return
    told: dict[str, str] = {}

    def draw(table: Table) -> None:
        columns = [list(column.cells) for column in table.columns]
        for row in zip(*columns, strict=True):
            title, verdict, rule, _, restarts, outcome = (str(cell) for cell in row)
            verdict = Text.from_markup(verdict).plain
            words = f"{title:22}  {verdict:13}  {rule:20}  restarts {restarts}  {outcome}"
            if told.get(title) != words:
                told[title] = words
                click.echo(f"{str(table.title).partition(' s ')[0].strip():>4} s  {words}".rstrip())

    yield draw


def _coloured(verdict: str) -> str:
    colour = {"healthy": "green", "stuck": "red", "failed": "red", "never_started": "red"}.get(verdict, "yellow")
    return f"[{colour}]{verdict}[/]"


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
