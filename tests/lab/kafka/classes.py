"""A broker's classes as Java has loaded and checked them once: with these a start takes half of the processor's time.

Java writes such an archive at the end of a process that was started with `-XX:ArchiveClassesAtExit` (JEP 350). It reads
one only with the very same jars and the very same Java, else it loads them as ever. So there is one for each version of
both, and a broker starts without, too.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

from tests.lab import cache
from tests.lab.kafka.cluster import SHORT_LIVED, KafkaCluster
from tests.lab.kafka.installation import VERSION, archive_of

if TYPE_CHECKING:
    from pathlib import Path


def archive(version: str = VERSION) -> bool:
    """Have a broker of this version leave its classes in the cache, unless they are there; say whether it did.

    Raises RuntimeError where Kafka is not installed or Java has left none.
    """
    at = archive_of(version)
    return cache.build_once(at.parent.name, partial(_write, version, at.name))


def _write(version: str, name: str, directory: Path) -> None:
    written = directory / name
    options = (*SHORT_LIVED, f"-XX:ArchiveClassesAtExit={written}")
    with KafkaCluster.start(directory=directory / "cluster", version=version, java_options=options) as cluster:
        log = cluster.directory / "broker-0" / "broker.log"
    if not written.is_file():
        raise RuntimeError(f"Java left no archive of Kafka's classes:\n{log.read_text()[-2000:]}")
    shutil.rmtree(directory / "cluster")
