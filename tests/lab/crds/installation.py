"""CRDs into the lab's cache: Strimzi's written by its own generator, prometheus-operator's from its Go module."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.lab import cache
from tests.lab.golang import module
from tests.lab.kafka.installation import DEPENDENCY_PLUGIN, java

if TYPE_CHECKING:
    from pathlib import Path

#: The last line that takes both v1beta2, which StreamForge's 0.47 has, and v1, the only one from 1.0 on.
STRIMZI_VERSION = "0.51.0"
#: The newest generator that runs on Java 17.
STRIMZI_GENERATOR_VERSION = "0.45.0"
PROMETHEUS_OPERATOR_VERSION = "0.93.0"

_STRIMZI = {
    "kafkatopics.yaml": "io.strimzi.api.kafka.model.topic.KafkaTopic",
    "kafkausers.yaml": "io.strimzi.api.kafka.model.user.KafkaUser",
}
_PROMETHEUS = ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml")


def directory() -> Path:
    """Give the directory they are cached in, whether or not it is there."""
    versions = f"{STRIMZI_VERSION}-{STRIMZI_GENERATOR_VERSION}-{PROMETHEUS_OPERATOR_VERSION}"
    return cache.root() / f"crds-{versions}"


def files() -> tuple[Path, ...]:
    """Give the files, one CRD each."""
    return tuple(directory() / name for name in (*_STRIMZI, *_PROMETHEUS))


def missing() -> str | None:
    """Give the reason why there are no CRDs to install, None when there are."""
    return None if directory().is_dir() else "the CRDs of Strimzi and prometheus-operator are not there: run `make lab`"


def install() -> bool:
    """Write them into the cache; say whether there was anything to do.

    Raises RuntimeError without Java, Maven or Go, or when a package cannot be fetched.
    """
    return cache.build_once(directory().name, _build)


def _build(at: Path) -> None:
    _strimzi(at)
    _prometheus_operator(at)


def _strimzi(at: Path) -> None:
    command = java()
    if command is None or shutil.which("mvn") is None:
        raise RuntimeError("Java and Maven are needed to write Strimzi's CRDs")
    (at / "pom.xml").write_text(_POM)
    _run(["mvn", "--batch-mode", "--quiet", "--file", "pom.xml", DEPENDENCY_PLUGIN, "-DoutputDirectory=libs"], at)
    _run(
        [
            *(command, "-cp", "libs/*", "io.strimzi.crdgenerator.CrdGenerator", "--yaml"),
            *("--crd-api-version", "v1", "--target-kube", "1.16+"),
            *("--api-versions", "v1beta2,v1", "--storage-version", "v1beta2"),
            *(f"{kind}={at / name}" for name, kind in _STRIMZI.items()),
        ],
        at,
    )
    shutil.rmtree(at / "libs")


def _prometheus_operator(at: Path) -> None:
    operator = module(f"github.com/prometheus-operator/prometheus-operator@v{PROMETHEUS_OPERATOR_VERSION}", at)
    for name in _PROMETHEUS:
        shutil.copy(operator / "example" / "prometheus-operator-crd" / name, at / name)


def _run(command: list[str], at: Path) -> str:
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>lab</groupId><artifactId>crds</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
<dependency><groupId>io.strimzi</groupId><artifactId>api</artifactId><version>{STRIMZI_VERSION}</version></dependency>
<dependency><groupId>io.strimzi</groupId><artifactId>crd-generator</artifactId>\
<version>{STRIMZI_GENERATOR_VERSION}</version></dependency>
</dependencies>
</project>
"""
