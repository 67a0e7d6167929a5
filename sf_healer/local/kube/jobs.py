"""What the API server makes of a Job that is created or patched: defaults, labels, validation. Pure.

Source: batch/v1's defaults, the Job strategy's generateSelector and the validation of Kubernetes 1.36.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sf_healer.local.kube.errors import Cause
from sf_healer.local.kube.objects import (
    CONTROLLER_UID_LABELS,
    JOB,
    JOB_NAME_LABELS,
    Object,
    has_condition,
    timestamp,
)

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_LABEL = 63
_LONGEST_SUBDOMAIN = 253
_IMMUTABLE = "field is immutable"

_SPEC_DEFAULTS: Mapping[str, Any] = {
    "parallelism": 1,
    "completions": 1,
    "backoffLimit": 6,
    "manualSelector": False,
    "completionMode": "NonIndexed",
    "suspend": False,
    "podReplacementPolicy": "TerminatingOrFailed",
}
_POD_DEFAULTS: Mapping[str, Any] = {
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "securityContext": {},
    "schedulerName": "default-scheduler",
}
_CONTAINER_DEFAULTS: Mapping[str, Any] = {
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "IfNotPresent",
}


def created(manifest: Object, *, namespace: str, uid: str, now: float, manager: str) -> Object:
    """Give the Job as the server stores it: its own metadata, defaults, the generated selector and labels."""
    job = copy.deepcopy(manifest)
    job.update(apiVersion=JOB.api_version, kind=JOB.name, status={})
    metadata = job["metadata"]
    metadata |= {
        "namespace": namespace,
        "uid": uid,
        "creationTimestamp": timestamp(now),
        "generation": 1,
        "managedFields": [
            {
                "manager": manager,
                "operation": "Update",
                "apiVersion": JOB.api_version,
                "time": timestamp(now),
                "fieldsType": "FieldsV1",
                "fieldsV1": {},
            }
        ],
    }
    for field in ("resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"):
        metadata.pop(field, None)
    spec = job.setdefault("spec", {})
    _default(spec, _SPEC_DEFAULTS)
    template = spec.setdefault("template", {})
    pod = template.setdefault("spec", {})
    _default(pod, _POD_DEFAULTS)
    for container in pod.get("containers") or ():
        _default(container, _CONTAINER_DEFAULTS)
    if not spec["manualSelector"]:
        _generate_selector(job, uid)
    if not metadata.get("labels"):  # a Job without labels shows those of its template
        metadata["labels"] = dict(template.get("metadata", {}).get("labels") or {})
    return job


def problems_of(job: Object) -> list[Cause]:
    """Say what is wrong with a Job as `created` gives it."""
    return [*_metadata_problems(job["metadata"]), *_spec_problems(job)]


def problems_of_update(before: Object, after: Object) -> list[Cause]:
    """Say what a patch may not change."""
    fields = ["completions", "selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex"]
    if not _template_is_mutable(before):
        fields.append("template")
    return [
        Cause(f"spec.{field}", f"Invalid value: {_IMMUTABLE}")
        for field in fields
        if before["spec"].get(field) != after["spec"].get(field)
    ]


def _template_is_mutable(job: Object) -> bool:
    return bool(job["spec"].get("suspend")) and ("startTime" not in job["status"] or has_condition(job, "Suspended"))


def _default(target: Object, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if target.get(name) is None:
            target[name] = copy.deepcopy(value)


def _generate_selector(job: Object, uid: str) -> None:
    spec, name = job["spec"], job["metadata"]["name"]
    template = spec["template"].setdefault("metadata", {})
    labels = template["labels"] = dict(template.get("labels") or {})
    for label in JOB_NAME_LABELS:
        labels.setdefault(label, name)
    for label in CONTROLLER_UID_LABELS:
        labels.setdefault(label, uid)
    selector = spec["selector"] = dict(spec.get("selector") or {})
    selector["matchLabels"] = {CONTROLLER_UID_LABELS[1]: uid} | dict(selector.get("matchLabels") or {})


def _metadata_problems(metadata: Object) -> Iterator[Cause]:
    name = metadata["name"]
    if not _DNS_SUBDOMAIN.fullmatch(name) or len(name) > _LONGEST_SUBDOMAIN:
        yield Cause("metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of …')


def _spec_problems(job: Object) -> Iterator[Cause]:
    spec, metadata = job["spec"], job["metadata"]
    template = spec["template"]
    labels = template.get("metadata", {}).get("labels") or {}
    expected = dict.fromkeys(JOB_NAME_LABELS, metadata["name"]) | dict.fromkeys(CONTROLLER_UID_LABELS, metadata["uid"])
    for label, value in labels.items():
        if len(value) > _LONGEST_LABEL:
            yield Cause("spec.template.labels", f'Invalid value: "{value}": must be no more than 63 characters')
        if not spec["manualSelector"] and expected.get(label, value) != value:
            yield Cause(
                f"spec.template.metadata.labels[{label}]",
                f"Invalid value: {labels}: must be '{expected[label]}'",
            )
    if not spec["manualSelector"]:
        if spec["selector"] != {"matchLabels": {CONTROLLER_UID_LABELS[1]: metadata["uid"]}}:
            yield Cause("spec.selector", f"Invalid value: {spec['selector']}: `selector` not auto-generated")
    elif not spec.get("selector"):
        yield Cause("spec.selector", "Required value", "FieldValueRequired")
    yield from _pod_problems(template["spec"])


def _pod_problems(pod: Object) -> Iterator[Cause]:
    if pod.get("restartPolicy") not in {"Never", "OnFailure"}:
        yield Cause(
            "spec.template.spec.restartPolicy",
            'Required value: valid values: "OnFailure", "Never"',
            "FieldValueRequired",
        )
    containers = pod.get("containers") or []
    if not containers:
        yield Cause("spec.template.spec.containers", "Required value", "FieldValueRequired")
    for number, container in enumerate(containers):
        place = f"spec.template.spec.containers[{number}]"
        name = container.get("name", "")
        if not _DNS_LABEL.fullmatch(name) or len(name) > _LONGEST_LABEL:
            yield Cause(f"{place}.name", f'Invalid value: "{name}": must be no more than 63 characters')
        if not container.get("image"):
            yield Cause(f"{place}.image", "Required value", "FieldValueRequired")
