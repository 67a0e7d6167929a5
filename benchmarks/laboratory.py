"""Where it is measured: the lab's Kafka, one broker, that keeps the preloaded topics from one start to the next."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lab.kafka import LONG_LIVED, KafkaCluster

#: What a topic got must still be there to be counted, and no engine pays for another one's cleaning.
_SETTINGS = {"log.cleaner.enable": "false", "log.retention.check.interval.ms": "86400000"}


class Laboratory(NamedTuple):
    """A running broker, and where its logs are."""

    bootstrap: str
    broker_pid: int
    logs: Path

    def bytes_of(self, topic: str) -> int:
        """Give how many bytes a topic's logs have, all partitions together."""
        return sum(
            segment.stat().st_size
            for log in self.logs.glob(f"{topic}-*")
            if log.name.removeprefix(f"{topic}-").isdigit()
            for segment in log.glob("*.log")
        )

    def bytes_like(self, application: str, kind: str) -> int:
        """Give the bytes of all topics of an application whose names say what they are."""
        names = {log.name.rpartition("-")[0] for log in self.logs.glob(f"*{application}*")}
        return sum(self.bytes_of(name) for name in names if kind in name)


@contextmanager
def kafka_at(bootstrap: str | None, directory: Path, *, brokers: int = 1) -> Iterator[str]:
    """Give the addresses of the Kafka that is named, else of one of the lab's own for as long as the context lasts."""
    if bootstrap is not None:
        yield bootstrap
        return
    with KafkaCluster.start(brokers=brokers, directory=directory / "kafka", java_options=LONG_LIVED) as kafka:
        yield kafka.bootstrap


@contextmanager
def started(directory: Path) -> Iterator[Laboratory]:
    """Start the broker on a directory, new or used before."""
    with KafkaCluster.start(brokers=1, directory=directory, settings=_SETTINGS, java_options=LONG_LIVED) as kafka:
        (broker,) = kafka.recorded()
        yield Laboratory(kafka.bootstrap, broker.pid, directory / "broker-0" / "data")
