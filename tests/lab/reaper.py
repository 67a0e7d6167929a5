"""Ends the lab's servers when the process that started them is gone, however it went.

Runs as a script, one for each process that starts servers. Reads lines from its standard input: `+PID` to
watch, `-PID` to forget; end of input means that the starter has exited or was killed, for only it holds the
other end. A parent-death signal would not do: Linux sends it when the starting *thread* ends, and tests
restart servers from the short-lived threads of asyncio.to_thread.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Keep the list; at the end of input kill what is still on it, newest first."""
    handles: dict[int, int] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            with contextlib.suppress(ProcessLookupError):
                handles[pid] = os.pidfd_open(pid)  # a handle cannot come to mean another process; an id can
        elif pid in handles:
            os.close(handles.pop(pid))
    for handle in reversed(handles.values()):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)


if __name__ == "__main__":
    main()
