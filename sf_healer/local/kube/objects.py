"""The API's objects as plain JSON, and small questions about them. Pure."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

Object = dict[str, Any]

FOREGROUND_FINALIZER = "foregroundDeletion"
ORPHAN_FINALIZER = "orphan"
TRACKING_FINALIZER = "batch.kubernetes.io/job-tracking"  # a pod stays until the Job controller counted it

CONTROLLER_UID_LABELS = ("controller-uid", "batch.kubernetes.io/controller-uid")
JOB_NAME_LABELS = ("job-name", "batch.kubernetes.io/job-name")

ENDED_PHASES = frozenset({"Succeeded", "Failed"})


class Kind(NamedTuple):
    """One kind of object, as it is named in paths and in answers."""

    name: str
    plural: str
    group: str = ""

    @property
    def api_version(self) -> str:
        """Group and version, as an object has them."""
        return f"{self.group}/v1" if self.group else "v1"

    @property
    def qualified(self) -> str:
        """The resource as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


JOB = Kind("Job", "jobs", "batch")
POD = Kind("Pod", "pods")
EVENT = Kind("Event", "events")
NAMESPACE = Kind("Namespace", "namespaces")


def timestamp(at: float) -> str:
    """Put epoch seconds into the API's form, whole seconds as the server has them."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch(stamp: str) -> float:
    """Read what `timestamp` wrote."""
    return datetime.fromisoformat(stamp).timestamp()


def name_of(item: Object) -> str:
    """Give the name."""
    return str(item["metadata"]["name"])


def namespace_of(item: Object) -> str:
    """Give the namespace; empty for what has none."""
    return str(item["metadata"].get("namespace", ""))


def uid_of(item: Object) -> str:
    """Give the uid."""
    return str(item["metadata"]["uid"])


def is_deleting(item: Object) -> bool:
    """Whether somebody asked for its deletion."""
    return "deletionTimestamp" in item["metadata"]


def finalizers_of(item: Object) -> list[str]:
    """List who has to do something before the object may go."""
    return list(item["metadata"].get("finalizers", ()))


def has_condition(item: Object, *types: str) -> bool:
    """Whether one of these conditions is True."""
    return any(
        condition["type"] in types and condition["status"] == "True"
        for condition in item.get("status", {}).get("conditions", ())
    )


def owner_of(pod: Object) -> Object | None:
    """Give the reference to the Job that made this pod, if there is one."""
    references = pod["metadata"].get("ownerReferences", ())
    return next((reference for reference in references if reference.get("controller")), None)


def edited(item: Object, change: Callable[[Object], object]) -> Object:
    """Give a changed copy; objects in the store are never changed in place."""
    copied = copy.deepcopy(item)
    change(copied)
    return copied


def without_finalizers(item: Object, *names: str) -> Object:
    """Give a copy that lacks these finalizers."""

    def drop(copied: Object) -> None:
        left = [name for name in finalizers_of(item) if name not in names]
        if left:
            copied["metadata"]["finalizers"] = left
        else:
            copied["metadata"].pop("finalizers", None)

    return edited(item, drop)
