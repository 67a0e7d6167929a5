"""Coverage-guided fuzzing of every decoder, where atheris is installed: `python -m tests.fuzz.guided -runs=1000000`.

Arguments are libFuzzer's. Begins with the corpus of tests/fuzz/corpus.py; what crashes is written to `crash-…` in the
working directory and repeated by naming that file. Not part of any test: atheris has wheels for Linux only
(docs/decisions/0001).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sf_healer.core"]):
    from sf_healer.core import commands, evidence, steps, stop_commands
    from sf_healer.core.combine import Combiner
    from sf_healer.core.events import Malformed, decode
    from sf_healer.core.identity import ConventionIndex, JobIndex
    from sf_healer.core.marks import SourceMarks

from tests.agents.recording import Record
from tests.fuzz import corpus

PARTITIONS = 6
_begun_with = corpus.load()
_names = JobIndex()
for _fact in _begun_with.facts:
    _names.put(_fact, now=0.0)


def one(value: bytes) -> None:
    """Read bytes as everything that is read, and combine them with a message that is well."""
    for names in (_names, ConventionIndex("stf")):
        records = [Record(0, 0, value), Record(1, 1000, _begun_with.messages[0]), Record(2, 2000, value)]
        combined = Combiner(names, PARTITIONS).combine(
            records, topic_id="t", source_partition=0, marks=SourceMarks(), not_after=1e9
        )
        assert combined.folded + len(combined.rejected) + sum(combined.ignored.values()) == len(records)
        for bundle in combined.bundles.values():
            assert evidence.decode(evidence.encode(bundle)) == bundle
    decoded = decode(value)
    (decoded.detail if isinstance(decoded, Malformed) else decoded.producer + decoded.queue_id).encode()
    for read in (commands.decode_action, commands.decode_control, commands.decode_outcome, steps.decode):
        read(value)
    stop_commands.read(value)


def main() -> None:
    """Be the command."""
    with tempfile.TemporaryDirectory() as directory:
        for number, message in enumerate(_begun_with.messages):
            (Path(directory) / str(number)).write_bytes(message)
        atheris.Setup([*sys.argv, directory], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
