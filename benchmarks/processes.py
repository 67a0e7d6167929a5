"""What the kernel says of a process and of the machine: CPU seconds, memory, and who else was at work."""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.02


class Sample(NamedTuple):
    """Seconds of CPU used up to a moment (epoch seconds): by the process, by our broker, by all of the machine."""

    at: float
    process: float
    broker: float
    machine: float


class Spent(NamedTuple):
    """What went by between two moments; `neighbours` is the mean number of cores that others used."""

    seconds: float
    cpu_seconds: float
    broker_cpu_seconds: float
    neighbours: float


class Watch:
    """Samples a process from its start to its end, in a thread; `between` says what two moments were apart."""

    def __init__(self, pid: int, broker_pid: int) -> None:
        self._pid, self._broker_pid = pid, broker_pid
        self._samples: list[Sample] = [self._sample()]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: The most memory the process ever had resident.
        self.peak_memory_mib = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def between(self, began: float, ended: float) -> Spent:
        """Give what went by from one moment (epoch seconds) to another."""
        first, last = self._at(began), self._at(ended)
        seconds = last.at - first.at
        process, broker = last.process - first.process, last.broker - first.broker
        others = (last.machine - first.machine - process - broker) / seconds
        return Spent(ended - began, process, broker, max(0.0, others))

    def _at(self, moment: float) -> Sample:
        return min(self._samples, key=lambda sample: abs(sample.at - moment))

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            try:
                self._samples.append(self._sample())
                self.peak_memory_mib = _peak_memory_mib(self._pid) or self.peak_memory_mib
            except (FileNotFoundError, ProcessLookupError):
                return

    def _sample(self) -> Sample:
        return Sample(time.time(), cpu_seconds(self._pid), cpu_seconds(self._broker_pid), machine_cpu_seconds())


def cpu_seconds(pid: int) -> float:
    """Give the seconds of CPU, user and system, that a process has used (/proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def machine_cpu_seconds() -> float:
    """Give the seconds that all cores together were busy since the machine's start."""
    user, nice, system, _idle, _waiting, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts)) / TICKS_A_SECOND


def _peak_memory_mib(pid: int) -> int:
    _, _, peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")  # absent once it has ended
    return int(peak.split()[0]) // 1024 if peak else 0
