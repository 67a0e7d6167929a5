"""Ports of the lab's servers: free ones, and whether one answers."""

from __future__ import annotations

import socket

from sf_healer.local.ports import LOOPBACK, free_port_with_free_neighbour, free_ports

__all__ = ["LOOPBACK", "free_port_with_free_neighbour", "free_ports", "is_answering"]


def is_answering(port: int) -> bool:
    """Say whether somebody accepts connections on this loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1.0).close()
    except OSError:
        return False
    return True
