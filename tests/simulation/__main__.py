"""Run worlds: `python -m tests.simulation --seed 7 --trace` repeats one, `--seeds 50` runs fresh ones."""

import argparse
import gc
import logging
import secrets
import sys
import time

import structlog

from tests.simulation.world import EPOCH, SECONDS, Result, World

TRACE_LINES = 60


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds asked for; 1 when one broke a rule."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--seeds", type=int, default=50, help="run so many fresh ones")
    parser.add_argument("--first", type=int, help="the first of them; default: at random")
    parser.add_argument("--trace", action="store_true", help="show what happened")
    parser.add_argument("--grep", default="", help="only lines of the trace with this text")
    parser.add_argument("--go-on", action="store_true", help="do not end at the first failure")
    chosen = parser.parse_args(arguments)
    silence()
    first = chosen.seed if chosen.seed is not None else chosen.first
    if first is None:
        first = secrets.randbelow(10**9)
    count = 1 if chosen.seed is not None else chosen.seeds
    return _run(range(first, first + count), trace=chosen.trace, grep=chosen.grep, go_on=chosen.go_on)


def silence() -> None:
    """Let the code under test log nothing."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )


def _run(seeds: range, *, trace: bool, grep: str, go_on: bool) -> int:
    began, failed, done = time.perf_counter(), 0, 0
    print(f"{len(seeds)} seeds from {seeds[0]}, {SECONDS / 3600:g} simulated hours each")  # noqa: T201
    for seed in seeds:
        result = World(seed, tracing=trace).run()
        done += 1
        gc.collect(0)
        if trace:
            show(result, grep)
        if result.violation is not None:
            failed += 1
            print(f"seed {seed}: {result.violation}\n  repeat it: {repeat(seed)}")  # noqa: T201
            if not go_on:
                break
    seconds = time.perf_counter() - began
    hours = done * SECONDS / 3600
    speed = f"{hours:g} simulated hours in {seconds:.1f} s, {60 * hours / seconds:.0f} a minute"
    print(f"{done} seeds, {failed} failed, {speed}")  # noqa: T201
    return 1 if failed else 0


def repeat(seed: int) -> str:
    """Give the command that repeats a seed."""
    return f"python -m tests.simulation --seed {seed} --trace"


def show(result: Result, grep: str) -> None:
    """Print what happened in a world."""
    for line in result.trace:
        if grep in line:
            print(line)  # noqa: T201
    print(result.counts)  # noqa: T201
    print({name: value for name in result.faults.__struct_fields__ if (value := getattr(result.faults, name))})  # noqa: T201
    print(f"ended at {result.seconds:.1f} s after {EPOCH:.0f}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
