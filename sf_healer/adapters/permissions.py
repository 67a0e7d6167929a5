"""What a broker lets us do with topics and groups, as it says itself (KIP-430): two requests that aiokafka lacks.

Old brokers and embedded ones do not say: then everything counts as allowed, and what is not will be refused later.
"""

# ruff: noqa: SLF001  aiokafka's administrator has no public way to send a request of one's own; its version is pinned

from collections.abc import Collection, Iterable, Iterator, Mapping

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v4
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from sf_healer.rights import Operation, Resource, Right

#: Kafka's AclOperation codes; in an answer each is the place of a bit.
_CODES = {
    Operation.READ: 3,
    Operation.WRITE: 4,
    Operation.CREATE: 5,
    Operation.DELETE: 6,
    Operation.ALTER: 7,
    Operation.DESCRIBE: 8,
    Operation.DESCRIBE_CONFIGS: 10,
    Operation.ALTER_CONFIGS: 11,
}
_NOT_SAID = -(2**31)
_EVERYTHING = frozenset(Operation)
_NOTHING = frozenset[Operation]()


class MetadataResponse_v8(Response):  # type: ignore[misc]  # noqa: N801 (as aiokafka names the others)
    """The first version that says what we may do with a topic; aiokafka ends at 5."""

    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class MetadataRequest_v8(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """Asks for topics by name."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = MetadataResponse_v8
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _TopicRightsRequest(Request[MetadataRequest_v4 | MetadataRequest_v8]):  # type: ignore[misc]
    """What we may do with topics; asking never creates one."""

    API_KEY = 3

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = list(topics)

    def build(
        self, request_struct_class: type[MetadataRequest_v4 | MetadataRequest_v8]
    ) -> MetadataRequest_v4 | MetadataRequest_v8:
        if request_struct_class is MetadataRequest_v8:
            return MetadataRequest_v8(self._topics, False, False, True)  # noqa: FBT003
        return MetadataRequest_v4(self._topics, False)  # noqa: FBT003


class _DescribeGroups(DescribeGroupsRequest_v3):  # type: ignore[misc]
    """aiokafka's own, with the answer that belongs to it: aiokafka 0.14.0 reads version 3 as version 2."""

    RESPONSE_TYPE = DescribeGroupsResponse_v3


class _GroupRightsRequest(Request[_DescribeGroups]):  # type: ignore[misc]
    """What we may do with a group."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_DescribeGroups]) -> _DescribeGroups:
        return request_struct_class([self._group], True)  # noqa: FBT003


async def topic_rights(client: AIOKafkaAdminClient, names: Collection[str]) -> dict[str, frozenset[Operation]]:
    """Give what we may do with each topic, there or not; nothing for one that we may not even see.

    Raises KafkaError.
    """
    if not names:
        return {}
    answer = await client._send_request(_TopicRightsRequest(names))
    return {topic["topic"]: _of_topic(topic) for topic in answer.to_object()["topics"]}


async def group_rights(client: AIOKafkaAdminClient, name: str) -> frozenset[Operation]:
    """Give what we may do with a consumer group, there or not; raises KafkaError."""
    try:
        coordinator = await client.find_coordinator(name)
        answer = await client._send_request(_GroupRightsRequest(name), coordinator)
    except GroupAuthorizationFailedError:
        return _NOTHING
    except (IncompatibleBrokerVersion, NotImplementedError):  # the latter is aiokafka's word for it
        return _EVERYTHING
    (group,) = answer.to_object()["groups"]
    if group["error_code"] == GroupAuthorizationFailedError.errno:
        return _NOTHING
    return _said(group["authorized_operations"])


async def missing_rights(client: AIOKafkaAdminClient, wanted: Collection[Right]) -> list[str]:
    """Say which of the rights are missing, one line a resource; raises KafkaError."""
    topics = await topic_rights(client, [right.name for right in wanted if right.resource is Resource.TOPIC])
    groups = {
        right.name: await group_rights(client, right.name) for right in wanted if right.resource is Resource.GROUP
    }
    return list(_missing(wanted, {Resource.TOPIC: topics, Resource.GROUP: groups}))


def _missing(wanted: Iterable[Right], allowed: Mapping[Resource, Mapping[str, frozenset[Operation]]]) -> Iterator[str]:
    for right in wanted:
        may = allowed[right.resource].get(right.name, _EVERYTHING)
        lacking = [operation.value for operation in right.operations if operation not in may]
        if lacking:
            yield f"{' and '.join(lacking)} on {right.resource} {right.name} ({right.why})"


def _of_topic(topic: Mapping[str, int]) -> frozenset[Operation]:
    if topic["error_code"] == TopicAuthorizationFailedError.errno:
        return _NOTHING
    return _said(topic.get("authorized_operations", _NOT_SAID))


def _said(bits: int) -> frozenset[Operation]:
    if bits == _NOT_SAID:
        return _EVERYTHING
    return frozenset(operation for operation, code in _CODES.items() if bits >> code & 1)
