"""A Job's manifest between two incarnations: what to keep of it, what to add, what to hide.

Pure functions over the API's JSON; the argument is never changed. Which fields the server owns: the
Kubernetes API conventions (metadata) and batch/v1's strategy (selector and controller labels, which it
generates unless spec.manualSelector is true and then refuses to see again: 422).
"""

import copy
import re
from collections.abc import Sequence
from math import inf

import msgspec

from sf_healer.core.facts import (
    ACTION_ID_ANNOTATION,
    ATTEMPT_ANNOTATION,
    CONTROLLER_UID_LABELS,
    JOB_NAME_LABELS,
    SKIP_ANNOTATION,
)

Manifest = dict[str, object]

REPLACES_UID_ANNOTATION = "sf-healer.io/replaces-uid"
REASON_ANNOTATION = "sf-healer.io/reason"

HIDDEN = "(hidden)"

_SERVER_METADATA = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
)
# The garbage collector works by these two; a delete with its propagation policy puts them there.
_SERVER_FINALIZERS = frozenset({"foregroundDeletion", "orphan"})
# Set by the Job controller of Kubernetes 1.22 to 1.26; ignored since.
_SERVER_ANNOTATIONS = ("batch.kubernetes.io/job-tracking",)
# Tools keep the whole manifest in annotations, env included, each under its own name: kubectl, kapp, Rancher. So what
# looks like a document, or is longer than any note, is not shown.
_DOCUMENT = re.compile(r"\s*[{\[]|.*\n", re.DOTALL)
_SHOWN_CHARACTERS = 256
# Of a pod: the values of env and of the headers of probes, what processes are called with.
_SECRETIVE = frozenset({"value", "command", "args"})
_REASON_CHARACTERS = 256  # annotations are limited to 256 KiB together


class Stamp(msgspec.Struct, frozen=True):
    """What a recreated Job says about why it exists."""

    attempt: int
    replaces_uid: str
    action_id: str
    reason: str


def sanitize(manifest: Manifest) -> Manifest:
    """Return what can be created again under the same name: everything but what the server assigned."""
    kept = copy.deepcopy(manifest)
    kept.pop("status", None)
    metadata = _mapping(kept, "metadata")
    own = {name: metadata.get("uid") for name in CONTROLLER_UID_LABELS}
    own |= {name: metadata.get("name") for name in JOB_NAME_LABELS}
    for field in _SERVER_METADATA:
        metadata.pop(field, None)
    _drop(metadata, "annotations", _SERVER_ANNOTATIONS)
    finalizers = metadata.get("finalizers")
    if isinstance(finalizers, list):
        _set_or_drop(metadata, "finalizers", [name for name in finalizers if name not in _SERVER_FINALIZERS])
    spec = _mapping(kept, "spec")
    template = _mapping(spec, "template")
    template_metadata = _mapping(template, "metadata")
    if template_metadata.get("creationTimestamp", "") is None:
        del template_metadata["creationTimestamp"]  # Go writes a zero time as null
    if spec.get("manualSelector") is not True:
        spec.pop("selector", None)
        # A Job without labels is given those of its template; one with its own may name another Job in them.
        generated = [name for name, value in _mapping(metadata, "labels").items() if name in own and value == own[name]]
        _drop(metadata, "labels", generated)
        _drop(template_metadata, "labels", tuple(own))
    if not template_metadata:
        template.pop("metadata", None)
    return kept


def stamp(manifest: Manifest, mark: Stamp) -> Manifest:
    """Return the manifest with our annotations: whose place it takes, why, and by which action."""
    return _annotated(
        manifest,
        {
            ATTEMPT_ANNOTATION: str(mark.attempt),
            REPLACES_UID_ANNOTATION: mark.replaces_uid,
            ACTION_ID_ANNOTATION: mark.action_id,
            REASON_ANNOTATION: mark.reason[:_REASON_CHARACTERS],
        },
    )


def exempt(manifest: Manifest) -> Manifest:
    """Return the manifest with the annotation by which its Job is left alone."""
    return _annotated(manifest, {SKIP_ANNOTATION: "true"})


def kept_when_finished(manifest: Manifest) -> float:
    """Return for how many seconds a Job of this manifest is there at least once it has finished; no limit: infinity."""
    seconds = _mapping(manifest, "spec").get("ttlSecondsAfterFinished")
    return float(seconds) if isinstance(seconds, int) else inf


def redact(manifest: Manifest) -> Manifest:
    """Return the manifest as it may be shown: no value of env, no command and arguments, no copy by a tool."""
    shown = copy.deepcopy(manifest)
    template = _mapping(_mapping(shown, "spec"), "template")
    for described in (shown, template):
        annotations = _mapping(_mapping(described, "metadata"), "annotations")
        for name, value in annotations.items():
            if len(text := str(value)) > _SHOWN_CHARACTERS or _DOCUMENT.match(text):
                annotations[name] = HIDDEN
    _hide(_mapping(template, "spec"))
    return shown


def _hide(part: object) -> None:
    """Hide what may be a secret, in place, however deep: probes and hooks call processes as well."""
    if isinstance(part, list):
        for item in part:
            _hide(item)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name in _SECRETIVE:
                part[name] = HIDDEN
            else:
                _hide(value)


def _annotated(manifest: Manifest, added: dict[str, str]) -> Manifest:
    annotated = copy.deepcopy(manifest)
    metadata = annotated.setdefault("metadata", {})
    assert isinstance(metadata, dict)
    annotations = metadata.get("annotations")
    metadata["annotations"] = (annotations if isinstance(annotations, dict) else {}) | added
    return annotated


def _mapping(parent: dict[str, object], name: str) -> dict[str, object]:
    """Give a nested object to read or change in place; an empty one, not attached, where there is none."""
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _drop(parent: dict[str, object], name: str, keys: Sequence[str]) -> None:
    kept = {key: value for key, value in _mapping(parent, name).items() if key not in keys}
    if isinstance(parent.get(name), dict):
        _set_or_drop(parent, name, kept)


def _set_or_drop(parent: dict[str, object], name: str, value: object) -> None:
    """Set a field, or remove it where nothing is left: the API serves no empty maps either."""
    if value:
        parent[name] = value
    else:
        parent.pop(name, None)
