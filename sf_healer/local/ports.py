"""Free loopback ports for servers that are told their port before they start."""

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST = 15_000
KERNEL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: Where there is no such file.
USUAL_FIRST_OUTGOING = 32_768


def free_ports(count: int) -> tuple[int, ...]:
    """Choose ports that nobody listens on, below the range the kernel hands to outgoing connections.

    A port of that range would not be a server's for good: before the server listens, or while it is down, any client
    may get it as its source port, even one that knocks at that very port. Raises RuntimeError where there are too few.
    """
    # one less: the successor of a port is below that range, too
    candidates = range(LOWEST, max(_first_outgoing() - 1, LOWEST + 1_000))
    chosen: list[int] = []
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        if _is_free(port):
            chosen.append(port)
        if len(chosen) == count:
            return tuple(chosen)
    raise RuntimeError(f"no {count} free ports between {candidates.start} and {candidates.stop}")


def free_port_with_free_neighbour() -> int:
    """Choose one whose successor is free as well: a worker's actuator listens there."""
    while True:
        (port,) = free_ports(1)
        if _is_free(port + 1):
            return port


def _first_outgoing() -> int:
    try:
        return int(KERNEL_RANGE.read_text().split()[0])
    except FileNotFoundError:
        return USUAL_FIRST_OUTGOING


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
