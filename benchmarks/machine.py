"""On what it was measured, and of which commit."""

import os
import platform
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def describe() -> str:
    """Say which machine this is, in one line."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores of {model}, {memory_gib:.0f} GiB, Linux {platform.release()}"


def versions() -> str:
    """Say which runtimes were used."""
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr.partition('"')[2]
    return f"Python {platform.python_version()}, Java {java.partition(chr(34))[0]}"


def commit() -> str:
    """Give the short id of the commit that is checked out."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
