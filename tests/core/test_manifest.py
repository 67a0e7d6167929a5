"""What a Job keeps when it is deleted and created again."""

import copy
import json

from hypothesis import given
from hypothesis import strategies as st

from sf_healer.core.facts import CONTROLLER_UID_LABELS, JOB_NAME_LABELS, fact_from_manifest
from sf_healer.core.manifest import HIDDEN, Stamp, kept_when_finished, redact, sanitize, stamp

UID = "0b6c1f0e-0000-4000-8000-000000000001"


def as_written(**spec):
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "loader-a", "namespace": "stf"},
        "spec": {
            "backoffLimit": 4,
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": "loader-a",
                            "image": "registry.example/loader:1",
                            "env": [
                                {"name": "QUEUE_ID", "value": "loader-a-P4nTkv"},
                                {"name": "TELEMETRY_PRODUCER_ID", "value": "loader-producer__P4nTkv"},
                                {"name": "KAFKA_PASSWORD", "value": "s3cret"},
                            ],
                        }
                    ],
                }
            },
            **spec,
        },
    }


def as_served(written, *, deleting=False):
    """What batch/v1 adds to a Job, as the real API server does it (1.36)."""
    served = copy.deepcopy(written)
    metadata, spec = served["metadata"], served["spec"]
    metadata |= {
        "uid": UID,
        "resourceVersion": "4711",
        "generation": 1,
        "creationTimestamp": "2026-11-24T05:00:00Z",
        "managedFields": [{"manager": "python", "operation": "Update"}],
    }
    if deleting:
        metadata |= {"deletionTimestamp": "2026-11-24T06:00:00Z", "deletionGracePeriodSeconds": 0}
        metadata["finalizers"] = [*metadata.get("finalizers", []), "foregroundDeletion"]
    if not spec.get("manualSelector"):
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": UID}}
        template_metadata = spec["template"].setdefault("metadata", {})
        template_metadata["labels"] = template_metadata.get("labels", {}) | {
            "batch.kubernetes.io/controller-uid": UID,
            "batch.kubernetes.io/job-name": metadata["name"],
            "controller-uid": UID,
            "job-name": metadata["name"],
        }
    served["status"] = {"active": 1, "startTime": "2026-11-24T05:00:00Z"}
    return served


def test_what_the_server_added_is_dropped_and_nothing_else():
    assert sanitize(as_served(as_written())) == as_written()


def test_a_job_read_while_it_is_being_deleted_can_be_created_again():
    assert sanitize(as_served(as_written(), deleting=True)) == as_written()


def test_a_finalizer_of_somebody_else_is_kept():
    written = as_written()
    written["metadata"]["finalizers"] = ["kueue.x-k8s.io/managed"]
    assert sanitize(as_served(written, deleting=True)) == written


def test_a_manual_selector_and_its_labels_are_kept():
    written = as_written(
        manualSelector=True,
        selector={"matchLabels": {"job-name": "mine"}},
    )
    written["spec"]["template"]["metadata"] = {"labels": {"job-name": "mine"}}
    assert sanitize(as_served(written)) == written


def test_labels_of_a_job_that_name_another_one_are_its_own_and_kept():
    """Generated are those of its name and uid alone, which the server also copies to a Job without labels."""
    written = as_written()
    written["metadata"]["labels"] = {"job-name": "nightly-batch", "controller-uid": "theirs"}
    assert sanitize(as_served(written)) == written
    served = as_served(as_written())
    served["metadata"]["labels"] = served["spec"]["template"]["metadata"]["labels"]
    assert sanitize(served) == as_written()


def test_owner_annotations_labels_suspend_and_failure_policy_are_kept():
    written = as_written(
        suspend=True,
        completionMode="Indexed",
        completions=3,
        parallelism=2,
        podFailurePolicy={"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]},
    )
    written["metadata"] |= {
        "labels": {"app": "streamforge"},
        "annotations": {"sf-healer.io/skip": "true", "note": "kept"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}],
    }
    assert sanitize(as_served(written)) == written


def test_our_marks_say_whose_place_a_job_takes():
    mark = Stamp(attempt=2, replaces_uid=UID, action_id="c1", reason="stuck: silent for 301 s")
    job = stamp(sanitize(as_served(as_written())), mark)
    assert job["metadata"]["annotations"] == {
        "sf-healer.io/attempt": "2",
        "sf-healer.io/replaces-uid": UID,
        "sf-healer.io/action-id": "c1",
        "sf-healer.io/reason": "stuck: silent for 301 s",
    }
    fact = fact_from_manifest(job, ())
    assert (fact.attempt, fact.action_id) == (2, "c1")
    job["metadata"].pop("annotations")
    assert job == as_written()


def test_marks_of_an_earlier_restart_are_replaced():
    first = stamp(as_written(), Stamp(attempt=1, replaces_uid="u0", action_id="c0", reason="x" * 9999))
    second = stamp(first, Stamp(attempt=2, replaces_uid="u1", action_id="c1", reason="stuck"))
    assert second["metadata"]["annotations"]["sf-healer.io/attempt"] == "2"
    assert len(first["metadata"]["annotations"]["sf-healer.io/reason"]) == 256


def test_a_finished_job_is_kept_for_its_ttl_and_without_one_for_good():
    assert kept_when_finished({"spec": {"ttlSecondsAfterFinished": 0}}) == 0.0
    assert kept_when_finished({"spec": {"ttlSecondsAfterFinished": 30}}) == 30.0
    assert kept_when_finished({"spec": {}}) == kept_when_finished({}) == float("inf")


def test_no_value_of_env_is_shown():
    written = as_written()
    written["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(as_written())}
    written["spec"]["template"]["spec"]["initContainers"] = [
        {"name": "i", "env": [{"name": "PASSWORD", "value": "s3cret"}]}
    ]
    written["spec"]["template"]["spec"]["containers"][0]["env"].append(
        {"name": "FROM", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    )
    shown = redact(written)
    assert "s3cret" not in json.dumps(shown)
    env = shown["spec"]["template"]["spec"]["containers"][0]["env"]
    assert env[2] == {"name": "KAFKA_PASSWORD", "value": HIDDEN}
    assert env[3]["valueFrom"] == {"secretKeyRef": {"name": "s", "key": "k"}}


def test_no_annotation_that_may_hold_a_manifest_is_shown_wherever_it_is():
    """Tools keep what they applied under names of their own, as JSON, as YAML, packed or in a list."""
    copies = {
        "kapp.k14s.io/original": json.dumps(as_written()),
        "example.org/list": f" [{json.dumps(as_written())}]",
        "example.org/yaml": "env:\n- name: P\n  value: s3cret",
        "example.org/packed": "s3cret" * 50,
    }
    kept = {"note": "by hand", "sf-healer.io/reason": "x" * 256, "kapp.k14s.io/original-diff-md5": "58e0494c51d3"}
    written = as_written()
    written["metadata"]["annotations"] = copies | kept
    written["spec"]["template"]["metadata"] = {"annotations": copies | kept}
    shown = redact(written)
    hidden = dict.fromkeys(copies, HIDDEN) | kept
    assert shown["metadata"]["annotations"] == shown["spec"]["template"]["metadata"]["annotations"] == hidden


def test_what_a_process_is_called_with_is_hidden_too_wherever_a_pod_calls_one():
    written = as_written()
    spec = written["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    header = {"name": "Authorization", "value": "s3cret"}
    container |= {
        "command": ["sh", "-c", "load --password=s3cret"],
        "args": ["--password=s3cret"],
        "lifecycle": {"preStop": {"exec": {"command": ["bye", "s3cret"]}}},
        "livenessProbe": {"httpGet": {"port": 80, "path": "/", "httpHeaders": [header]}},
    }
    spec["initContainers"] = [
        {"name": "first", "image": "i", "env": [{"name": "A", "value": "s3cret"}], "args": ["s3cret"]}
    ]
    shown = redact(written)
    assert "s3cret" not in json.dumps(shown)
    (container,) = shown["spec"]["template"]["spec"]["containers"]
    assert container["command"] == HIDDEN
    assert (container["name"], container["image"]) == ("loader-a", "registry.example/loader:1")
    assert container["livenessProbe"]["httpGet"]["path"] == "/"


_names = st.text("abcdefghijklmnopqrstuvwxyz-./", min_size=1, max_size=12)
_words = st.text(max_size=12)
#: Without the server's own: it refuses a Job that has others in their place.
_labels = st.dictionaries(
    _names.filter(lambda name: name not in (*CONTROLLER_UID_LABELS, *JOB_NAME_LABELS)), _words, min_size=1, max_size=3
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def written_jobs(draw):
    """Jobs as people and controllers write them: any known field, and fields nobody has heard of yet."""
    job = as_written(**draw(st.fixed_dictionaries({}, optional={
        "suspend": st.booleans(),
        "parallelism": st.integers(0, 9),
        "activeDeadlineSeconds": st.integers(1, 99),
        "podReplacementPolicy": st.sampled_from(["TerminatingOrFailed", "Failed"]),
        "managedBy": st.just("example.com/controller"),
        "aFieldOfTheFuture": _json,
    })))  # fmt: skip
    job["metadata"] |= draw(st.fixed_dictionaries({}, optional={
        "labels": _labels,
        "annotations": _labels,
        "ownerReferences": st.just([{"kind": "Pod", "name": "p", "uid": "u"}]),
        "generateName": st.just("loader-"),
        "finalizers": st.just(["example.com/mine"]),
    }))  # fmt: skip
    template = draw(st.fixed_dictionaries({}, optional={"labels": _labels, "annotations": _labels}))
    if template:
        job["spec"]["template"]["metadata"] = template
    job["spec"]["template"]["spec"] |= draw(st.dictionaries(_names, _json, max_size=3))
    return job


@given(written_jobs(), st.booleans())
def test_any_job_comes_back_as_it_was_written(job, deleting):
    served = as_served(job, deleting=deleting)
    before = copy.deepcopy(served)
    assert sanitize(served) == job
    assert served == before


@given(written_jobs())
def test_sanitizing_twice_changes_nothing_more(job):
    once = sanitize(as_served(job))
    assert sanitize(once) == once


@given(written_jobs(), st.text(max_size=300))
def test_only_annotations_differ_between_two_incarnations(job, reason):
    marked = stamp(job, Stamp(attempt=1, replaces_uid=UID, action_id="c1", reason=reason))
    assert sanitize(as_served(marked)) == marked
    kept = {k: v for k, v in marked["metadata"]["annotations"].items() if not k.startswith("sf-healer.io/")}
    assert kept == {
        k: v for k, v in job["metadata"].get("annotations", {}).items() if not k.startswith("sf-healer.io/")
    }
    marked["metadata"].pop("annotations")
    assert marked == {**job, "metadata": {k: v for k, v in job["metadata"].items() if k != "annotations"}}


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status", "kind"]), _json))
def test_no_manifest_raises(manifest):
    sanitize(manifest)
    redact(manifest)
