"""What people see of restarts: plain data from the records of the actuator. Nothing here draws.

Manifests hold secrets; every record goes through the core's `shown` before it is seen.
"""

import heapq
from collections.abc import Iterator, Mapping
from typing import Any

from sf_healer.core.actions import asks_for_a_person
from sf_healer.core.actuator import Actuator, JobRecord, shown


def build_actions(actuator: Actuator, *, job: str = "", last: int = 0) -> dict[str, dict[str, Any]]:
    """Build the records of all Jobs, of one, or of the `last` that were restarted or refused."""
    records: Mapping[str, JobRecord] = actuator.jobs
    if job:
        records = {job: records[job]} if job in records else {}
    elif last:
        newest = heapq.nlargest(last, records.items(), key=lambda item: _newest(item[1]))
        records = dict(newest)
    return {key: shown(record) for key, record in records.items()}


def build_action(actuator: Actuator, action_id: str) -> dict[str, Any] | None:
    """Build one restart: the action while it is open, and what was told of it; None where it is not remembered."""
    for key, record in actuator.jobs.items():
        is_open = record.action is not None and record.action.id == action_id
        if is_open or any(outcome.command_id == action_id for outcome in record.recent):
            document: dict[str, Any] = shown(record)
            outcomes = [outcome for outcome in document["recent"] if outcome["command_id"] == action_id]
            return {
                "id": action_id,
                "job": key,
                "action": document["action"] if is_open else None,
                "outcomes": outcomes,
            }
    return None


def list_actions(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the restarts in the records of `/actions/`, the newest first: each once, by the last that is told of it."""
    listed: dict[str, dict[str, Any]] = {}
    for job, record in records.items():
        for entry in _entries(job, record):
            listed[entry["id"]] = entry
    return sorted(listed.values(), key=lambda entry: (entry["at"], entry["id"]), reverse=True)


def waits_for_a_person(action: Mapping[str, Any]) -> bool:
    """Return whether an open restart, as `shown` shows it, asks for a person."""
    return asks_for_a_person(action["state"], overdue=action["overdue"], refusal=action["refusal"])


def _newest(record: JobRecord) -> float:
    told = max((outcome.at for outcome in record.recent), default=0.0)
    return max(told, record.action.since) if record.action is not None else told


def _entries(job: str, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give what was told, oldest first, and then what is open."""
    for outcome in record.get("recent", []):
        yield {
            "id": outcome["command_id"],
            "job": job,
            "at": outcome["at"],
            "verdict": outcome["verdict"],
            "state": outcome["result"],
            "reason": outcome["reason"],
            "requested_by": outcome.get("requested_by", ""),
            "attempt": outcome["attempt"],
            "detail": outcome["detail"],
            "evidence": outcome["evidence"],
            "is_open": not outcome["final"],
            "waits_for_a_person": outcome["needs_person"],
        }
    action = record.get("action")
    if action is not None:
        command = action["command"]
        yield {
            "id": command["id"],
            "job": job,
            "at": action["since"],
            "verdict": command["verdict"],
            "state": action["state"],
            "reason": "",
            "requested_by": command.get("requested_by", ""),
            "attempt": action["attempt"],
            "detail": action["refusal"],
            "evidence": command["evidence"],
            "is_open": True,
            "waits_for_a_person": waits_for_a_person(action),
        }
