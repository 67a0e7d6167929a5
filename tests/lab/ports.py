"""Free loopback ports for servers that are told their port before they start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST = 15_000
KERNEL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> tuple[int, ...]:
    """Choose ports that nobody listens on, below the range the kernel hands to outgoing connections.

    A port of that range would not be a server's for good: while the server is down (the lab kills and
    restarts its own) any client may get it as its source port, even one that knocks at that very port.
    """
    first_outgoing = int(KERNEL_RANGE.read_text().split()[0])
    candidates = range(LOWEST, max(first_outgoing, LOWEST + 1_000))
    chosen: list[int] = []
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        if _is_free(port):
            chosen.append(port)
        if len(chosen) == count:
            return tuple(chosen)
    raise RuntimeError(f"no {count} free ports between {candidates.start} and {candidates.stop}")


def is_answering(port: int) -> bool:
    """Say whether somebody accepts connections on this loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
