"""The rights of our Kafka users: the manifests and the page say what the code does, and no more is asked for."""

from pathlib import Path

import pytest
import yaml

from sf_healer import topics
from sf_healer.local import launcher
from sf_healer.rights import ACTUATOR_GROUP, DETECTOR_GROUP, Operation, Pattern, Purpose, Resource, kafka_user, rights
from sf_healer.settings import Settings

REPOSITORY = Path(__file__).parents[2]
OURS = {spec.name for spec in topics.specs(Settings(), 1)}
MANIFESTS = {topics.STEPS, topics.ACTIONS_CHANGELOG}


@pytest.mark.parametrize("purpose", Purpose)
def test_the_shipped_manifest_is_the_code(purpose: Purpose):
    shipped = (REPOSITORY / "manifests" / "kafka" / f"user-{purpose}.yaml").read_text()
    assert shipped == kafka_user(Settings(), purpose), f"run: sf-healer topics --kafka-user {purpose}"


def test_a_source_topic_of_another_name_is_in_the_manifest_too():
    user = yaml.safe_load(kafka_user(Settings(source_topic="reports", control_topic="stops"), Purpose.DETECTOR))
    named = {acl["resource"]["name"] for acl in user["spec"]["authorization"]["acls"]}
    assert {"reports", "stops"} <= named
    assert not {"queue-events", "queue-control"} & named


@pytest.mark.parametrize("purpose", [Purpose.ALL, Purpose.DETECTOR, Purpose.ACTUATOR])
def test_no_worker_may_write_what_is_the_platforms_or_make_or_change_a_topic(purpose: Purpose):
    for right in rights(Settings(), purpose):
        assert Operation.CREATE not in right.operations
        if right.name not in OURS:
            assert Operation.WRITE not in right.operations, right


@pytest.mark.parametrize("purpose", [Purpose.DETECTOR, Purpose.PEOPLE, Purpose.TOPICS])
def test_only_the_actuator_may_read_manifests(purpose: Purpose):
    readable = {right.name for right in rights(Settings(), purpose) if Operation.READ in right.operations}
    assert not readable & (MANIFESTS | {"*"})


@pytest.mark.parametrize("purpose", Purpose)
def test_of_what_is_not_named_only_the_names_may_be_seen(purpose: Purpose):
    for right in rights(Settings(), purpose):
        if right.name == "*" or right.pattern is Pattern.PREFIX:
            assert right.operations == (Operation.DESCRIBE,)
            assert not right.required


def test_the_data_topics_that_may_be_seen_are_those_of_queues_and_none_of_ours():
    (prefix,) = {right.name for right in rights(Settings(), Purpose.ALL) if right.pattern is Pattern.PREFIX}
    queue = launcher.Queue.launch("BTCUSDT", "api_trades", "2025-06-01", "P4nTkv")
    assert queue.id.startswith(prefix)
    assert not any(name.startswith(prefix) for name in OURS)


def test_the_role_all_has_the_rights_of_both_others_and_no_more():
    def of(purpose: Purpose) -> set[tuple[Resource, str, Operation]]:
        listed = rights(Settings(), purpose)
        return {(right.resource, right.name, operation) for right in listed for operation in right.operations}

    assert of(Purpose.ALL) == of(Purpose.DETECTOR) | of(Purpose.ACTUATOR)
    named = {(right.resource, right.name) for right in rights(Settings(), Purpose.ALL)}
    assert len(named) == len(rights(Settings(), Purpose.ALL)), "one right a resource"


def test_the_groups_are_those_of_the_apps():
    source = (REPOSITORY / "sf_healer" / "app.py").read_text()
    assert f'_app("{DETECTOR_GROUP}"' in source
    assert f'_app("{ACTUATOR_GROUP}"' in source
