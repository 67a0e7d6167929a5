"""Access control lists on the lab's brokers: given and taken back by the internal listener, whose clients may all.

An ACL is written as Strimzi's KafkaUser writes it, so that a test can apply a shipped manifest as it is.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

# Kafka's protocol, clients/src/main/java/org/apache/kafka/common: ResourceType, PatternType, AclOperation,
# AclPermissionType
_TYPES = {"topic": 2, "group": 3, "cluster": 4}
_PATTERNS = {"literal": 3, "prefix": 4}
_OPERATIONS = {"All": 2, "Read": 3, "Write": 4, "Create": 5, "Delete": 6, "Alter": 7, "Describe": 8}
_OPERATIONS |= {"ClusterAction": 9, "DescribeConfigs": 10, "AlterConfigs": 11, "IdempotentWrite": 12}
_DENY, _ALLOW = 2, 3
_CLUSTER = "kafka-cluster"
_ANY_HOST = "*"


class Acl(NamedTuple):
    """One operation on one resource."""

    type: str
    name: str
    pattern: str
    operation: str


def acls_of(kafka_user: Mapping[str, Any]) -> list[Acl]:
    """Give the ACLs of a Strimzi KafkaUser."""
    return list(_acls(kafka_user["spec"]["authorization"]["acls"]))


def _acls(rules: Iterable[Mapping[str, Any]]) -> Iterator[Acl]:
    for rule in rules:
        assert rule.get("type", "allow") == "allow", rule
        assert rule.get("host", _ANY_HOST) == _ANY_HOST, rule
        resource = rule["resource"]
        for operation in rule["operations"]:
            name = resource.get("name", _CLUSTER)
            yield Acl(resource["type"], name, resource.get("patternType", "literal"), operation)


async def allow(bootstrap: str, user: str, acls: Iterable[Acl]) -> None:
    """Allow a user what the ACLs say."""
    async with _admin(bootstrap) as admin:
        for acl in acls:
            await _create(admin, user, acl, _ALLOW)


async def deny(bootstrap: str, user: str, acls: Iterable[Acl]) -> None:
    """Deny a user what the ACLs say, whoever allows it."""
    async with _admin(bootstrap) as admin:
        for acl in acls:
            await _create(admin, user, acl, _DENY)


async def _create(admin: AIOKafkaAdminClient, user: str, acl: Acl, permission: int) -> None:
    answer = await admin._send_request(CreateAclsRequest(*_fields(user, acl, permission)))
    assert all(code == 0 for code, _ in answer.creation_responses), (acl, answer)


async def forbid(bootstrap: str, user: str, acls: Iterable[Acl]) -> None:
    """Take ACLs back from a user; each must be there."""
    async with _admin(bootstrap) as admin:
        for acl in acls:
            answer = await admin._send_request(DeleteAclsRequest(*_fields(user, acl, _ALLOW)))
            assert all(code == 0 and matching for code, _, matching in answer.filter_responses), (acl, answer)


def _fields(user: str, acl: Acl, permission: int) -> tuple[object, ...]:
    operation = _OPERATIONS[acl.operation]
    return (_TYPES[acl.type], acl.name, _PATTERNS[acl.pattern], f"User:{user}", _ANY_HOST, operation, permission)


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
