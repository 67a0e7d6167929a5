"""Apache Kafka as the lab runs it: real brokers, installed from Maven Central, in KRaft mode on loopback.

`python -m tests.lab.kafka --help` for people; tests use the fixtures of tests/conftest.py or KafkaCluster.
"""

from tests.lab.kafka.acls import Acl, acls_of, allow, forbid
from tests.lab.kafka.cluster import LONG_LIVED, KafkaCluster
from tests.lab.kafka.installation import OLDEST_VERSION, VERSION, install, missing

__all__ = [
    "LONG_LIVED",
    "OLDEST_VERSION",
    "VERSION",
    "Acl",
    "KafkaCluster",
    "acls_of",
    "allow",
    "forbid",
    "install",
    "missing",
]
