"""Apache Kafka's jars from Maven Central into the lab's cache, one directory for each version."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from tests.lab import cache

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "4.3.1"  # 4.4.0 is listed at Maven Central, but not all of its parts are there
OLDEST_VERSION = "4.0.1"  # the platform's line, the oldest one we say we run on; `make lab` installs it too
LOG4J_VERSION = "2.25.3"
DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
OLDEST_JAVA = 17  # Kafka 4's brokers refuse older ones

_ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", "{kafka}"),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
    ("org.apache.logging.log4j", "log4j-core", LOG4J_VERSION),
    ("org.apache.logging.log4j", "log4j-1.2-api", LOG4J_VERSION),
)


def installed_at(version: str = VERSION) -> Path:
    """Give the directory this version is cached in, whether or not it is there."""
    return cache.root() / f"kafka-{version}"


def missing(version: str = VERSION) -> str | None:
    """Give the reason why brokers of this version cannot be started here, None when they can."""
    if (reason := _java_missing()) is not None:
        return reason
    if not installed_at(version).is_dir():
        command = "make lab" if version == VERSION else f"python -m tests.lab.kafka install --version {version}"
        return f"Apache Kafka {version} is not installed: run `{command}`"
    return None


def install(version: str = VERSION) -> bool:
    """Install this version into the cache; say whether there was anything to do.

    Raises RuntimeError when Java or Maven is missing, or when Maven cannot fetch the jars.
    """
    if (reason := _java_missing()) is not None:
        raise RuntimeError(reason)
    if shutil.which("mvn") is None:
        raise RuntimeError("Maven is needed to fetch Apache Kafka (Debian: apt-get install maven)")
    return cache.build_once(installed_at(version).name, partial(_fetch_jars, version))


def _fetch_jars(version: str, directory: Path) -> None:
    (directory / "pom.xml").write_text(_pom(version))
    command = ["mvn", "--batch-mode", "--quiet", "--file", "pom.xml", DEPENDENCY_PLUGIN]
    done = subprocess.run(
        [*command, "-DoutputDirectory=libs"], cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"mvn could not fetch Apache Kafka {version}:\n{done.stdout}{done.stderr}")


def _pom(version: str) -> str:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
        f"<version>{at.format(kafka=version)}</version></dependency>\n"
        for group, name, at in _ARTIFACTS
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0">\n<modelVersion>4.0.0</modelVersion>\n'
        "<groupId>lab</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>\n"
        f"<dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )


def java() -> str | None:
    """Give the java command: that of JAVA_HOME, or else the PATH's."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")


def archive_of(version: str = VERSION) -> Path:
    """Give the place of a version's classes as this Java has loaded them (classes.py), be it there or not."""
    command = java()
    described = hashlib.sha256((_version_text(command) if command else "").encode()).hexdigest()[:12]
    return cache.root() / f"{installed_at(version).name}-classes-{described}" / "broker.jsa"


def java_command(*options: str, version: str = VERSION) -> list[str]:
    """Give the command that runs a class of Kafka's, without the class; Java and Kafka must be there."""
    command, archive = java(), archive_of(version)
    assert command is not None, "missing() was asked before"
    if archive.is_file():  # an archive that Java cannot use is none, and not worth a word
        options = (f"-XX:SharedArchiveFile={archive}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off", *options)
    return [command, *options, "-cp", f"{installed_at(version)}/libs/*"]


def _java_missing() -> str | None:
    command = java()
    if command is None:
        return f"Java {OLDEST_JAVA} or newer is needed for Apache Kafka, there is none (JAVA_HOME, PATH)"
    version = _version_text(command)
    quoted = version.partition('"')[2].partition(".")[0].partition('"')[0]
    if not quoted.isdigit() or int(quoted) < OLDEST_JAVA:
        return f"Java {OLDEST_JAVA} or newer is needed for Apache Kafka, {command} is {version.splitlines()[0]}"
    return None


@lru_cache
def _version_text(command: str) -> str:
    return subprocess.run([command, "-version"], capture_output=True, text=True, check=False).stderr
