"""What people see of Jobs: plain data with units in the names, from the hot state of a partition.

The same view serves pages, CLI and logs. Nothing secret is in a JobState, so nothing is redacted here.
"""

import math
from typing import Any

import msgspec

from sf_healer.core.cadence import p99_seconds, silence_threshold
from sf_healer.core.partition import Partition
from sf_healer.core.state import NEVER, JobState, is_error_excused
from sf_healer.core.verdicts import NO_LOOK, Judgement
from sf_healer.views.holding import Held, Holding, held
from sf_healer.views.words import RULES


def build_row(partition: Partition, state: JobState) -> dict[str, Any]:
    """Build one row of the table of Jobs; ages are seconds on the partition's watermark."""
    judgement = partition.judgement(state)
    fact = state.fact
    return {
        "job": state.key,
        "namespace": state.key.partition("/")[0],
        "name": state.key.partition("/")[2],
        "verdict": judgement.verdict,
        "rule": judgement.rule,
        "target": fact.target if fact else "",
        "queue_id": fact.queue_id if fact else "",
        "last_loading_at": _time(state.loading_at),
        "last_seen_at": _time(state.life_at),
        "silence_seconds": round(judgement.silence, 3),
        "threshold_seconds": judgement.threshold,
        "attempt": fact.attempt if fact else 0,
        "partition": partition.number,
        "held_by": _held_by(partition, state, judgement),
    }


def _held_by(partition: Partition, state: JobState, judgement: Judgement) -> Held | None:
    """Say what holds the restart of a sick Job back, by the last answer to it; None where there was none."""
    if not judgement.restartable:
        return None
    if state.command_id:
        return held(Holding.ASKED, until=_time(state.command_deadline))
    outcome = state.outcome
    if outcome is None or state.fact is None or outcome.uid != state.fact.uid:
        return None
    is_ahead = state.retry_at > partition.watermark.value
    return held(outcome.reason, until=state.retry_at if is_ahead else None, detail=outcome.detail)


def build_job(partition: Partition, state: JobState) -> dict[str, Any]:
    """Build everything known of one Job: what it said, what is expected, why it is judged so, when next."""
    judgement = partition.judgement(state)
    fact = state.fact
    return {
        **build_row(partition, state),
        "why": {
            "rule": judgement.rule,
            "explanation": RULES[judgement.rule],
            "since": _time(judgement.since),
            "silence_seconds": round(judgement.silence, 3),
            "threshold_seconds": judgement.threshold,
            "watermark": _time(partition.watermark.value),
            "looks_again_at": None if judgement.look_at == NO_LOOK else judgement.look_at,
        },
        "policy": msgspec.to_builtins(partition.policy_of(state)) if fact else None,
        "said": {
            "started_at": _time(state.started_source),
            "loading_at": _time(state.loading_source),
            "error_at": _time(state.error_source),
            "error": state.error_detail,
            "error_finished": state.error_finished,
            "error_excused": is_error_excused(state),
            "finished_at": _time(state.finished_source),
            "interrupted_at": _time(state.interrupted_source),
            "records_written": state.records_written if state.records_written >= 0 else None,
            "progress_at": _time(state.progress_at),
            "source_partition": state.source_partition,
            "source_offset": state.source_offset,
        },
        "incarnation": msgspec.to_builtins(_by_name(fact)) if fact else None,
        "cadence": {
            "intervals": sum(state.cadence),
            "p99_seconds": _finite(p99_seconds(state.cadence)),
            "threshold_seconds": silence_threshold(state.cadence, partition.policy_of(state)),
        }
        if state.cadence and fact
        else None,
        "pod_running_since": _time(state.running_at),
        "group_found_idle_at": _time(state.idle_at),
        "command": {"id": state.command_id, "verdict": state.command_verdict, "deadline": state.command_deadline}
        if state.command_id
        else None,
        "not_again_before": _time(state.retry_at),
        "last_outcome": _by_name(state.outcome) if state.outcome else None,
    }


def build_fleet(partitions: list[Partition]) -> dict[str, Any]:
    """Build the counts of all Jobs by verdict and the watermark of each partition."""
    verdicts: dict[str, int] = {}
    for partition in partitions:
        for verdict, count in partition.counts_by_verdict.items():
            if count:
                verdicts[verdict] = verdicts.get(verdict, 0) + count
    return {
        "verdicts": verdicts,
        "jobs": sum(verdicts.values()),
        "partitions": [
            {
                "partition": partition.number,
                "jobs": len(partition.jobs),
                "watermark": _time(partition.watermark.value),
                "last_append_at": _time(partition.last_at),
                "source_partitions": partition.watermark.partitions,
                "marked": sorted(partition.watermark.marks),
                "feed_gaps": len(partition.watermark.gaps.as_tuple()),
            }
            for partition in sorted(partitions, key=lambda partition: partition.number)
        ],
    }


def _time(at: float) -> float | None:
    return None if at == NEVER else at


def _finite(seconds: float | None) -> float | None:
    return seconds if seconds is not None and math.isfinite(seconds) else None


def _by_name(value: msgspec.Struct) -> dict[str, Any]:
    """Turn an array-like struct into a dict for people; msgspec itself would give an array."""
    return {field: msgspec.to_builtins(getattr(value, field)) for field in value.__struct_fields__}
