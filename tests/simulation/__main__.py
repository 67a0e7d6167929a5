"""Run worlds: `python -m tests.simulation --seed 7 --trace` repeats one, `--seeds 50` runs fresh ones on all cores.

`--mutants` puts known faults in and shows what finds them; `--mutant NAME --seed 7 --trace` shows how.
"""

import argparse
import secrets
import sys
import time

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.seeds import HOURS_OF_A_SEED, Ran, cores, repeat, run_all, silence
from tests.simulation.world import EPOCH, Result, World

_PROGRESS_SECONDS = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds asked for; 1 when one broke a rule, or when a mutant was not found."""
    chosen = _parser().parse_args(arguments)
    silence()
    mutant = next((each for each in MUTANTS if each.name == chosen.mutant), None)
    if chosen.mutants:
        return _hunt_all()
    if chosen.seed is not None:
        result = _world(chosen.seed, mutant, without=chosen.without, tracing=chosen.trace)
        return _show(result, trace=chosen.trace, grep=chosen.grep)
    if mutant is not None:
        return 0 if _hunt(mutant) else 1
    first = secrets.randbelow(10**9) if chosen.first is None else chosen.first
    chosen_seeds = seeds_of(chosen.seeds, fixed=chosen.fixed, first_fresh=first)
    return _run(chosen_seeds, processes=chosen.processes, go_on=chosen.go_on)


def seeds_of(count: int, *, fixed: int, first_fresh: int) -> list[int]:
    """Give so many seeds: first those that are always the same, from 0 on, then fresh ones."""
    fixed = min(fixed, count)
    return [*range(fixed), *range(first_fresh, first_fresh + count - fixed)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--seeds", type=int, default=50, help="run so many fresh ones (default: %(default)s)")
    parser.add_argument("--fixed", type=int, default=0, help="so many of them are always the same: 0, 1, 2 and so on")
    parser.add_argument("--first", type=int, help="the first of the fresh ones; default: at random")
    parser.add_argument("--processes", type=int, default=cores(), help="default: one for each core")
    parser.add_argument("--go-on", action="store_true", help="do not end at the first failure")
    parser.add_argument("--trace", action="store_true", help="with --seed: show what happened")
    parser.add_argument("--grep", default="", help="only lines of the trace with this text")
    parser.add_argument("--mutant", choices=[each.name for each in MUTANTS], help="put this fault in")
    parser.add_argument("--without", action="store_true", help="with --mutant and --seed: its world without the fault")
    parser.add_argument("--mutants", action="store_true", help="put each known fault in, and look for it")
    return parser


# ---- one seed


def _world(seed: int, mutant: Mutant | None, *, without: bool, tracing: bool) -> Result:
    if mutant is None:
        return World(seed, tracing=tracing).run()
    return mutant.without(seed, tracing=tracing) if without else mutant.world(seed, tracing=tracing)


def _show(result: Result, *, trace: bool, grep: str) -> int:
    if trace:
        for line in result.trace:
            if grep in line:
                print(line)  # noqa: T201
        print(result.counts)  # noqa: T201
        print({name: value for name in result.faults.__struct_fields__ if (value := getattr(result.faults, name))})  # noqa: T201
        print(f"ended at {result.seconds:.1f} s after {EPOCH:.0f}")  # noqa: T201
    print(f"seed {result.seed}: {result.violation or 'no rule is broken'}")  # noqa: T201
    return 1 if result.violation is not None else 0


# ---- many seeds


def _run(seeds: list[int], *, processes: int, go_on: bool) -> int:
    processes = max(1, min(processes, len(seeds)))
    print(  # noqa: T201
        f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}, {HOURS_OF_A_SEED:g} simulated hours each, on {processes} cores"
    )
    began = said = time.monotonic()
    done: list[Ran] = []
    for ran in run_all(seeds, processes=processes):
        done.append(ran)
        if ran.failure:
            print(f"seed {ran.seed}: {ran.failure}\n  repeat it: {repeat(ran.seed)}", flush=True)  # noqa: T201
            if not go_on:
                break
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"{len(done)} of {len(seeds)} after {said - began:.0f} s", flush=True)  # noqa: T201
    _sum_up(done, time.monotonic() - began)
    return 1 if any(ran.failure for ran in done) else 0


def _sum_up(done: list[Ran], seconds: float) -> None:
    failed = sorted(ran.seed for ran in done if ran.failure)
    hours = HOURS_OF_A_SEED * len(done)
    per_core = 60.0 * hours / sum(ran.seconds for ran in done)
    for seed in failed:
        print(f"repeat it: {repeat(seed)}")  # noqa: T201
    print(  # noqa: T201
        f"{len(done)} seeds, {len(failed)} failed: {hours:g} simulated hours in {seconds:.1f} s, "
        f"{per_core:.0f} a minute per core"
    )


# ---- known faults


def _hunt_all() -> int:
    found = [_hunt(mutant) for mutant in MUTANTS]
    return 0 if all(found) else 1


def _hunt(mutant: Mutant) -> bool:
    """Look for a known fault and say what finds it, in how many seeds, and whether the same world is well without."""
    began = time.process_time()
    tried, found = mutant.hunt()
    seconds = time.process_time() - began
    if found is None:
        print(f"{mutant.name}: not found in {tried} seeds ({seconds:.1f} s)", flush=True)  # noqa: T201
        return False
    without = mutant.without(found.seed).violation
    print(f"{mutant.name}: seed {found.seed}, {tried} tried, {seconds:.1f} s: {found.violation}", flush=True)  # noqa: T201
    if without is not None:
        print(f"  and without it: {without}", flush=True)  # noqa: T201
    return without is None


if __name__ == "__main__":
    sys.exit(main())
