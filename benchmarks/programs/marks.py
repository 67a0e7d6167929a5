"""How a measured program tells its parent what happened when: lines on stdout, with the moment in them."""

import sys
import time


def mark(moment: str) -> None:
    """Say that a moment has come: first (report read), last (report folded), closed."""
    stdout = sys.__stdout__  # Faust puts its log in the place of sys.stdout
    assert stdout is not None
    stdout.write(f"MARK {moment} {time.time():.6f}\n")
    stdout.flush()
