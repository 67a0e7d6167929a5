"""`python -m tests.fuzz --messages N --seed S`: N hostile messages through the real path.

They come in worlds of some ten thousand messages, each with a seed of its own; a failure names the world and the
command that repeats it. Every second world names its Jobs by convention instead of by the cluster's Jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from pathlib import Path as File

from sf_healer.adapters import logs
from sf_healer.settings import LogLevel
from tests.fuzz import corpus
from tests.fuzz.path import Path

MESSAGES_A_WORLD = 20_000
DEFAULT_MESSAGES = 200_000


class HostileFeedError(AssertionError):
    """Something broke; the message says how to have it break again."""


def run(messages: int, *, seed: str, first_world: int = 0, directory: File | None = None) -> int:
    """Run so many messages through the path; returns in how many worlds. Raises HostileFeedError."""
    begun_with = corpus.load(directory)
    worlds = -(-messages // MESSAGES_A_WORLD)
    for world in range(first_world, first_world + worlds):
        share = min(MESSAGES_A_WORLD, messages - (world - first_world) * MESSAGES_A_WORLD)
        try:
            asyncio.run(_run_world(begun_with, f"{seed}/{world}", share, by_convention=world % 2 == 1))
        except Exception as error:
            where = f" --corpus {directory}" if directory else ""
            raise HostileFeedError(
                f"world {world} of seed {seed} ({begun_with.recorded} of its corpus recorded); repeat it with: "
                f"python -m tests.fuzz --seed {seed} --first-world {world} --messages {share}{where}"
            ) from error
    return worlds


async def _run_world(begun_with: corpus.Corpus, seed: str, messages: int, *, by_convention: bool) -> None:
    async with Path(begun_with, seed, by_convention=by_convention) as path:
        await path.feed(messages)
        await path.check_what_is_shown()


def main() -> None:
    """Be the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=DEFAULT_MESSAGES, metavar="N")
    parser.add_argument("--seed", default="0", metavar="S")
    parser.add_argument("--fresh", action="store_true", help="take a seed that nobody has seen before")
    parser.add_argument("--first-world", type=int, default=0, metavar="W", help="begin with this world")
    parser.add_argument("--corpus", type=File, metavar="DIR", help="recorded messages to begin with")
    chosen = parser.parse_args()
    logs.configure(LogLevel.ERROR)  # thousands of Jobs turn sick on the way
    began = time.monotonic()
    seed = secrets.token_hex(4) if chosen.fresh else chosen.seed
    sys.stdout.write(f"seed {seed}\n")
    worlds = run(chosen.messages, seed=seed, first_world=chosen.first_world, directory=chosen.corpus)
    seconds = time.monotonic() - began
    sys.stdout.write(f"{chosen.messages:,} messages in {worlds} worlds, {seconds:.0f} s: all accounted for\n")


if __name__ == "__main__":
    main()
