"""The floor: a bare consumer loop that decodes and folds into a dict. Nothing is durable, nobody is judged.

`python floor.py BOOTSTRAP TOPIC REPORTS`, with confluent-kafka and orjson.
"""

import sys

import orjson
from confluent_kafka import Consumer, TopicPartition
from marks import mark

PARTITIONS = 3


def main(bootstrap: str, topic: str, reports: int) -> None:
    """Read a topic to its end."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "floor",
            "enable.auto.commit": False,
            "fetch.min.bytes": 100_000,
            "queued.max.messages.kbytes": 262_144,
            "fetch.queue.backoff.ms": 10,  # of 1,000, which halve or quarter what a bare consumer reads
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    jobs: dict[str, list[object]] = {}
    seen = 0
    while seen < reports:
        messages = consumer.consume(10_000, 1.0)
        if messages and not seen:
            mark("first")
        for message in messages:
            report = orjson.loads(message.value())
            key = report["queue_id"] + "/" + report["producer"].split("__", 1)[0]
            job = jobs.get(key)
            moment = report["sent_at"]
            if job is None:
                jobs[key] = [moment, report["status"], 1, moment]
                continue
            if moment > job[0]:
                job[0], job[1] = moment, report["status"]
            job[2] += 1
        seen += len(messages)
    mark("last")
    consumer.close()
    assert sum(job[2] for job in jobs.values()) == reports


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
