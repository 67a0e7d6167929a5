"""Runs a command that must not outlive its starter. A script: PARENT_PID COMMAND [ARGUMENT …].

The process becomes the command; from then on the kernel kills it when the thread that started it is gone,
however that came about (prctl(2), PR_SET_PDEATHSIG). Linux only. Python's `preexec_fn` could do the same,
but runs Python code between fork and exec, which can deadlock in a process that has threads.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def main(parent: int, command: list[str]) -> None:
    """Put the leash on, then become the command."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        sys.exit("the starter was gone before the leash was on")
    os.execv(command[0], command)  # noqa: S606  # to become it is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
