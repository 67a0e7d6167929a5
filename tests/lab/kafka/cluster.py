"""One or three Kafka brokers as processes: started, broken on purpose, ended. No client code lives here."""

from __future__ import annotations

import base64
import uuid
from functools import partial
from typing import TYPE_CHECKING, Self

from tests.lab.kafka.installation import VERSION, java_command, missing
from tests.lab.kafka.security import Authority
from tests.lab.ports import LOOPBACK, free_ports, is_answering
from tests.lab.process import Recorded, Server, stop_together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FORMAT_SECONDS = 60.0
START_SECONDS = 90.0  # a broker takes 4 s alone on two idle cores; three at once beside other tests far more
STOP_SECONDS = 15.0
SINGLE_HEAP = "1g"
THREE_HEAP = "512m"
TOOL_SECONDS = 60.0
#: Options of Java. A test's broker lives for a minute, and what the second compiler makes of it in that time takes half
#: of all its CPU, while much is interpreted that the first had better compile sooner. A broker that is measured or kept
#: is compiled as anywhere else.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:CompileThresholdScaling=0.3")
LONG_LIVED = ()

_LOG4J = """\
status = error
appender.stdout.type = Console
appender.stdout.name = STDOUT
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = INFO
rootLogger.appenderRef.stdout.ref = STDOUT
"""

#: What formatting leaves in a log directory, by Kafka's version and the users.
_formatted: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, bytes]] = {}


class KafkaCluster:
    """One or three brokers, each broker and controller at once; numbered 0, 1, 2, as in Kafka's metadata.

    A broker keeps its ports and its log directory through `kill`, `stop_broker` and `restart`. All calls
    block; from a coroutine use asyncio.to_thread.

    With `users` (name -> password) there is a second listener, SASL_SSL with SCRAM-SHA-512, at `secure_bootstrap`,
    and an authorizer: who comes in there may do nothing but what ACLs allow (tests/lab/kafka/acls.py). Who comes in
    by `bootstrap` may do all.

    With `behind` (names of ways, a port for each broker) there are listeners that are reached through something else on
    these ports, and advertise them: who comes in by `bootstrap_behind` of a way cannot go round it. What is there has
    `listens_behind` to go on to.
    """

    def __init__(
        self,
        *,
        brokers: int,
        directory: Path,
        heap: str | None = None,
        settings: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        behind: Mapping[str, Sequence[int]] | None = None,
        version: str = VERSION,
        outlives_us: bool = False,
        java_options: Sequence[str] = SHORT_LIVED,
    ) -> None:
        if (reason := missing(version)) is not None:
            raise RuntimeError(reason)
        behind = behind or {}
        assert all(len(way) == brokers for way in behind.values()), "a port for each broker"
        ports = free_ports((3 + len(behind)) * brokers)
        self.directory = directory
        self.ports = ports[:brokers]
        self._controller_ports = ports[brokers : 2 * brokers]
        self._secure_ports = ports[2 * brokers : 3 * brokers]
        self._behind = {name: tuple(way) for name, way in behind.items()}
        self._ports_behind = {
            name: ports[number * brokers : (number + 1) * brokers] for number, name in enumerate(behind, start=3)
        }
        self._users = dict(users or {})
        self._settings = dict(settings or {})
        self._version = version
        self._java_options = tuple(java_options)
        self._heap = heap or (SINGLE_HEAP if brokers == 1 else THREE_HEAP)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "log4j2.properties").write_text(_LOG4J)
        if self._users:
            self.renew_certificates()
        self._brokers = tuple(self._broker(index, outlives_us=outlives_us) for index in range(brokers))

    @classmethod
    def start(
        cls,
        *,
        brokers: int = 1,
        directory: Path,
        heap: str | None = None,
        settings: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        behind: Mapping[str, Sequence[int]] | None = None,
        version: str = VERSION,
        outlives_us: bool = False,
        java_options: Sequence[str] = SHORT_LIVED,
    ) -> Self:
        """Format and start `brokers` (1 or 3) brokers in `directory`; returns when all take clients.

        `heap` is Java's -Xmx ("512m"), `java_options` more of its options; `settings` go on top of the lab's
        server.properties. Raises StartFailed with the tail of the log, RuntimeError when Kafka, or OpenSSL for
        `users`, is not installed.
        """
        cluster = cls(
            brokers=brokers,
            directory=directory,
            heap=heap,
            settings=settings,
            users=users,
            behind=behind,
            version=version,
            outlives_us=outlives_us,
            java_options=java_options,
        )
        try:
            cluster._format()
            cluster._start(*cluster._brokers)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @property
    def bootstrap(self) -> str:
        """Give the brokers' addresses as clients take them: host:port, comma-separated."""
        return ",".join(f"{LOOPBACK}:{port}" for port in self.ports)

    def bootstrap_behind(self, way: str) -> str:
        """Give the addresses of a way of `behind`, as clients take them."""
        return ",".join(f"{LOOPBACK}:{port}" for port in self._behind[way])

    def listens_behind(self, way: str) -> tuple[str, ...]:
        """Give, for each broker, where it listens for what comes by a way of `behind`."""
        return tuple(f"{LOOPBACK}:{port}" for port in self._ports_behind[way])

    @property
    def secure_bootstrap(self) -> str:
        """Give the addresses of the listeners that want TLS and a login."""
        assert self._users, "the cluster was started without users"
        return ",".join(f"{LOOPBACK}:{port}" for port in self._secure_ports)

    @property
    def ca_file(self) -> Path:
        """Give the certificate that clients of `secure_bootstrap` must trust."""
        return self.directory / "tls" / "ca.crt"

    def renew_certificates(self) -> None:
        """Make a new authority and new certificates; a broker takes them at its next start, or as below."""
        authority = Authority(self.directory / "tls", "ca")
        for index in range(len(self.ports)):
            (self.directory / "tls" / f"broker-{index}.pem").write_text(authority.issue(f"broker-{index}"))

    def reload_certificates(self) -> None:
        """Have running brokers take the certificates made last; connections that are open stay so."""
        for index in range(len(self.ports)):
            place = self.directory / "tls" / f"broker-{index}.pem"
            self._alter("brokers", str(index), f"listener.name.secure.ssl.keystore.location={place}")

    def set_password(self, user: str, password: str) -> None:
        """Give a user another password; connections that are open stay so."""
        self._alter("users", user, f"SCRAM-SHA-512=[password={password}]")

    @property
    def running(self) -> tuple[int, ...]:
        """Give the numbers of the brokers that are alive and not paused."""
        return tuple(index for index, broker in enumerate(self._brokers) if broker.is_alive and not broker.is_paused)

    def kill(self, index: int) -> None:
        """Crash a broker (SIGKILL)."""
        self._brokers[index].kill()

    def stop_broker(self, index: int) -> None:
        """Stop a broker the orderly way (SIGTERM: it hands its leaderships over first)."""
        self._brokers[index].stop(patience_seconds=STOP_SECONDS)

    def restart(self, index: int) -> None:
        """Start a broker again on its own log directory and ports, first stopping it if it runs."""
        self.stop_broker(index)
        self._start(self._brokers[index])

    def pause(self, index: int) -> None:
        """Freeze a broker (SIGSTOP): its connections stay open and nothing answers."""
        self._brokers[index].pause()

    def resume(self, index: int) -> None:
        """Let a frozen broker go on (SIGCONT)."""
        self._brokers[index].resume()

    def make_whole(self) -> None:
        """Resume and restart whatever a test left paused or dead."""
        for broker in self._brokers:
            if broker.is_paused:
                broker.resume()
        self._start(*(broker for broker in self._brokers if not broker.is_alive))

    def stop(self) -> None:
        """End all brokers; the directory stays."""
        stop_together(self._brokers, patience_seconds=STOP_SECONDS)

    def recorded(self) -> tuple[Recorded, ...]:
        """Give what another interpreter needs to end the brokers."""
        return tuple(broker.recorded() for broker in self._brokers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _broker(self, index: int, *, outlives_us: bool) -> Server:
        home = self.directory / f"broker-{index}"
        home.mkdir(exist_ok=True)
        properties = {**self._properties(index), "log.dirs": str(home / "data")}
        if self._users:
            properties |= self._security_properties(index, properties)
        for way in self._behind:
            properties |= self._properties_behind(way, index, properties)
        properties |= self._settings
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        (home / "server.properties").write_text(text)
        # the collector's settings are those of Kafka's own start script
        command = self._java_command(
            f"-Xmx{self._heap}",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=20",
            "-XX:+ExitOnOutOfMemoryError",
            *self._java_options,
        )
        return Server(
            f"broker {index}",
            [*command, "kafka.Kafka", str(home / "server.properties")],
            log=home / "broker.log",
            outlives_us=outlives_us,
        )

    def _properties(self, index: int) -> dict[str, str]:
        brokers = len(self.ports)
        enough = str(min(2, brokers))  # the replicas that must have a record before it is acknowledged
        replicas = str(brokers)
        return {
            "process.roles": "broker,controller",
            "node.id": str(index),
            "controller.quorum.voters": ",".join(
                f"{node}@{LOOPBACK}:{port}" for node, port in enumerate(self._controller_ports)
            ),
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.ports[index]},"
            f"CONTROLLER://{LOOPBACK}:{self._controller_ports[index]}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.ports[index]}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "num.partitions": "3",
            "default.replication.factor": replicas,
            "min.insync.replicas": enough,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "5",  # of 50: fewer files, a quicker start and stop
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": enough,
            "transaction.state.log.num.partitions": "5",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": enough,
            "group.initial.rebalance.delay.ms": "0",  # of 3 s, which every test's first join would wait
            "auto.create.topics.enable": "false",  # as production has it: a forgotten topic must show
            "unclean.leader.election.enable": "false",
            "log.segment.delete.delay.ms": "1000",
            "metadata.max.idle.interval.ms": "0",  # of 500: a record twice a second that says nothing, on every broker
        }

    def _security_properties(self, index: int, plain: Mapping[str, str]) -> dict[str, str]:
        secure = f"SECURE://{LOOPBACK}:{self._secure_ports[index]}"
        listener = "listener.name.secure."
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        return {
            "listeners": f"{plain['listeners']},{secure}",
            "advertised.listeners": f"{plain['advertised.listeners']},{secure}",
            "listener.security.protocol.map": f"{plain['listener.security.protocol.map']},SECURE:SASL_SSL",
            listener + "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            listener + "scram-sha-512.sasl.jaas.config": login,
            listener + "ssl.keystore.type": "PEM",
            listener + "ssl.keystore.location": str(self.directory / "tls" / f"broker-{index}.pem"),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # the brokers themselves, and who comes in by the plain listener
            "allow.everyone.if.no.acl.found": "false",
        }

    def _properties_behind(self, way: str, index: int, plain: Mapping[str, str]) -> dict[str, str]:
        listens, advertised = self._ports_behind[way][index], self._behind[way][index]
        name = f"BEHIND_{way.upper()}"
        return {
            "listeners": f"{plain['listeners']},{name}://{LOOPBACK}:{listens}",
            "advertised.listeners": f"{plain['advertised.listeners']},{name}://{LOOPBACK}:{advertised}",
            "listener.security.protocol.map": f"{plain['listener.security.protocol.map']},{name}:PLAINTEXT",
        }

    def _alter(self, kind: str, name: str, config: str) -> None:
        whom = ["--bootstrap-server", self.bootstrap, "--entity-type", kind, "--entity-name", name]
        tool = Server(
            "kafka-configs",
            [*self._tool_command("kafka.admin.ConfigCommand"), *whom, "--alter", "--add-config", config],
            log=self.directory / "kafka-configs.log",
        )
        tool.start()
        tool.wait_for_success(seconds=TOOL_SECONDS)

    def _format(self) -> None:
        """Make log directories that brokers take for theirs, unless they were used before.

        Kafka's own tool makes the first with such users that this process asks for; it is a JVM, and what it leaves is
        the same for all but who they are.
        """
        anew = [index for index, broker in enumerate(self._brokers) if not _identity_file(broker).exists()]
        if not anew:
            return
        wanted = self._version, tuple(self._users.items())
        if wanted not in _formatted:
            _formatted[wanted] = self._formatted_by_kafka(self._brokers[anew[0]])
        cluster_id = _kafka_id()
        for index in anew:
            file = _identity_file(self._brokers[index])
            file.parent.mkdir(exist_ok=True)
            for name, content in _formatted[wanted].items():
                (file.parent / name).write_bytes(content)
            who = {"version": "1", "cluster.id": cluster_id, "node.id": f"{index}", "directory.id": _kafka_id()}
            file.write_text("".join(f"{name}={value}\n" for name, value in who.items()))

    def _formatted_by_kafka(self, broker: Server) -> dict[str, bytes]:
        home = broker.log.parent
        users = [f"--add-scram=SCRAM-SHA-512=[name={name},password={word}]" for name, word in self._users.items()]
        command = [
            *self._tool_command("kafka.tools.StorageTool"),
            "format",
            f"--cluster-id={_kafka_id()}",  # its command line takes a leading dash for an option, hence not `-t ID`
            f"--config={home / 'server.properties'}",
            *users,
        ]
        tool = Server(f"format of {home.name}", command, log=home / "format.log")
        tool.start()
        tool.wait_for_success(seconds=FORMAT_SECONDS)
        return {file.name: file.read_bytes() for file in (home / "data").iterdir()}

    def _start(self, *brokers: Server) -> None:
        for broker in brokers:
            broker.start()
        for broker in brokers:
            port = self.ports[self._brokers.index(broker)]
            broker.wait_until(partial(_takes_clients, broker, port), seconds=START_SECONDS)

    def _tool_command(self, tool: str) -> list[str]:
        return [*self._java_command("-Xmx128m", "-XX:+UseSerialGC", *SHORT_LIVED), tool]

    def _java_command(self, *options: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        return java_command(*options, log4j, version=self._version)


def _identity_file(broker: Server) -> Path:
    """Say where a broker keeps who it is."""
    return broker.log.parent / "data" / "meta.properties"


def _kafka_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _takes_clients(broker: Server, port: int) -> bool:
    return "Kafka Server started" in broker.output() and is_answering(port)
