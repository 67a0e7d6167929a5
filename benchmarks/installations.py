"""What the peers are made of, under the lab's cache: a virtual environment of their own, the Java application."""

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.lab import cache
from tests.lab.kafka.installation import java

PYTHON_PEERS = ("quixstreams==3.28.1", "confluent-kafka==2.12.2", "orjson==3.13.0")
STREAMS = Path(__file__).parent / "kafka_streams"
_COPY_LIBRARIES = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def directory() -> Path:
    """Give where all of this and the results are kept."""
    return cache.root() / "benchmarks"


def peers_python() -> Path:
    """Give the Python that has the peers' libraries; installs them if they are not there."""
    digest = hashlib.sha256("\n".join([*PYTHON_PEERS, sys.version]).encode()).hexdigest()[:12]
    name = f"benchmark-peers-{digest}"
    cache.build_once(name, _install_peers)
    return cache.root() / name / "bin" / "python"


def _install_peers(place: Path) -> None:
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    # A wheel in a directory that is renamed afterwards: `python -m` and imports work, its scripts would not.
    _run([python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *PYTHON_PEERS])


def streams_classpath() -> str:
    """Give the class path of the Kafka Streams application; builds it if it is not there as it is now."""
    sources = sorted(path for path in STREAMS.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    name = f"benchmark-streams-{digest}"
    cache.build_once(name, _build_streams)
    return f"{cache.root() / name}/classes:{cache.root() / name}/libs/*"


def _build_streams(place: Path) -> None:
    if shutil.which("mvn") is None:
        raise RuntimeError("Maven is needed to build the Kafka Streams application (Debian: apt-get install maven)")
    maven = ["mvn", "--batch-mode", "--quiet", "--file", str(STREAMS / "pom.xml"), f"-Dbuilt.at={place}"]
    _run([*maven, "compile", _COPY_LIBRARIES, f"-DoutputDirectory={place / 'libs'}"])


def streams_command() -> list[str]:
    """Compose the start of the Kafka Streams application, up to its arguments."""
    command = java()
    if command is None:
        raise RuntimeError("Java is needed for the Kafka Streams application")
    return [command, "-Xmx1g", "-cp", streams_classpath(), "healer.StreamsHealer"]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {done.returncode}:\n{done.stdout}{done.stderr}")
