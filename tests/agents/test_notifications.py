"""The webhook against a real HTTP server, well and hostile: each notice at most once, and nothing ever waits for it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import stamina
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from agents.notifications import LONGEST_RETRY_AFTER_SECONDS, Notifier, wait_before_next_try
from sf_healer.adapters import http
from sf_healer.adapters.http import NotDeliveredError
from sf_healer.core.admission import Fleet, Phase, Reason
from sf_healer.core.commands import Outcome, Result
from sf_healer.settings import NotifyFormat, Settings, load
from tests.core.outcomes import RESTARTED
from tests.lab.receiver import Receiver, raw, status
from tests.lab.waiting import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SECONDS = 30.0
#: What stands in every address here, and must stand nowhere else.
SECRET = "hunter2"
KINDS = ("delivered", "refused", "unanswered", "queue_full", "stopped", "fault")


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    """Try three times, without a pause."""
    with stamina.set_testing(True, attempts=3):
        yield


def an_outcome(number: int = 1, **changes: Any) -> Outcome:
    return msgspec.structs.replace(RESTARTED, id=f"o{number}", **changes)


def counted() -> dict[str, float]:
    return {kind: REGISTRY.get_sample_value("sf_healer_notifications_total", {"result": kind}) or 0.0 for kind in KINDS}


def since(before: dict[str, float]) -> dict[str, float]:
    """Give what was counted since, without what was not."""
    return {kind: count - before[kind] for kind, count in counted().items() if count != before[kind]}


@asynccontextmanager
async def notifying(url: str, **options: Any) -> AsyncIterator[Notifier]:
    queue = {"queue": options.pop("queue")} if "queue" in options else {}
    clock = {"clock": options.pop("clock")} if "clock" in options else {}
    notifier = Notifier(Settings(notify_url=url, **options), **queue, **clock)
    yield notifier
    await notifier.close(0.0)


async def all_told(notifier: Notifier) -> None:
    async def is_empty() -> bool:
        return not len(notifier._outbox)

    await until_async(is_empty, "everything to be told or given up", seconds=SECONDS)


# ------------------------------------------------------------------ a receiver that is well


async def test_an_outcome_is_posted_as_json_once():
    before = counted()
    with Receiver() as receiver:
        async with notifying(receiver.url) as notifier:
            notifier.ended(RESTARTED)
            await all_told(notifier)
    (body,) = receiver.bodies
    told = msgspec.json.decode(body)
    assert (told["id"], told["kind"], told["outcome"]["new_uid"]) == ("o1", "restarted", "u2")
    assert receiver.headers[0]["Content-Type"] == "application/json"
    assert since(before) == {"delivered": 1}


async def test_a_chat_gets_one_text_and_nothing_else():
    with Receiver() as receiver:
        async with notifying(receiver.url, notify_format=NotifyFormat.SLACK) as notifier:
            notifier.ended(RESTARTED)
            await all_told(notifier)
    told = msgspec.json.decode(receiver.bodies[0])
    assert list(told) == ["text"]
    assert told["text"].startswith("sf-healer: stf/a: restarted (verified)")


async def test_outcomes_come_in_their_order_and_with_them_storms():
    fleet = Fleet(base=10, unhealthy=6, sick=6, as_of=1000.0)
    with Receiver() as receiver:
        async with notifying(receiver.url) as notifier:
            notifier.ended(an_outcome(1))
            notifier.fleet_moved(Phase.CALM, Phase.STORM, 1000.0, fleet)
            notifier.fleet_moved(Phase.STORM, Phase.PROBING, 1100.0, fleet)
            notifier.ended(an_outcome(2, result=Result.FAILED, reason="no_pods"))
            notifier.fleet_moved(Phase.PROBING, Phase.CALM, 1200.0, fleet)
            await all_told(notifier)
    kinds = [msgspec.json.decode(body)["kind"] for body in receiver.bodies]
    assert kinds == ["restarted", "storm_begun", "failed", "storm_ended"]


async def test_only_what_was_asked_for_is_told():
    with Receiver() as receiver:
        async with notifying(receiver.url, notify_on="failed,quarantined") as notifier:
            notifier.ended(an_outcome(1))
            notifier.ended(an_outcome(2, result=Result.FAILED, reason="no_pods"))
            notifier.ended(an_outcome(3, result=Result.WOULD_RESTART, reason="observe_mode"))
            notifier.ended(an_outcome(4, result=Result.REFUSED, reason=Reason.PAUSED))
            notifier.fleet_moved(Phase.CALM, Phase.STORM, 1.0, Fleet(base=9, unhealthy=9, sick=9, as_of=1.0))
            await all_told(notifier)
    assert [msgspec.json.decode(body)["id"] for body in receiver.bodies] == ["o2"]


async def test_a_job_that_stays_in_quarantine_is_told_once_an_hour():
    now = [0.0]
    with Receiver() as receiver:
        async with notifying(receiver.url, clock=lambda: now[0]) as notifier:
            for number, at in enumerate([0.0, 900.0, 3599.0, 3600.0]):
                now[0] = at
                refused = an_outcome(number, result=Result.REFUSED, reason=Reason.QUARANTINED, quarantined=True)
                notifier.ended(refused)
                await all_told(notifier)
    assert [msgspec.json.decode(body)["id"] for body in receiver.bodies] == ["o0", "o3"]


async def test_each_way_a_notice_may_be_lost_is_counted_from_nought_so_that_the_first_loss_is_an_increase():
    Notifier(Settings(notify_url="http://127.0.0.1:1/"))
    samples = [REGISTRY.get_sample_value("sf_healer_notifications_total", {"result": kind}) for kind in KINDS]
    assert None not in samples


async def test_without_a_webhook_nobody_is_told():
    before = counted()
    notifier = Notifier(Settings())
    notifier.ended(RESTARTED)
    assert not len(notifier._outbox)
    await notifier.close(0.0)
    assert since(before) == {}


async def test_the_url_may_stand_in_a_file_and_is_read_every_time(tmp_path):
    file = tmp_path / "url"
    with Receiver() as first, Receiver() as second:
        file.write_text(first.url + "\n")
        notifier = Notifier(load({"SF_HEALER_NOTIFY_URL_FILE": str(file)}))
        notifier.ended(an_outcome(1))
        await all_told(notifier)
        file.write_text(second.url)
        notifier.ended(an_outcome(2))
        await all_told(notifier)
        await notifier.close(0.0)
    assert (len(first.bodies), len(second.bodies)) == (1, 1)


# ------------------------------------------------------------------ one that is not


@pytest.mark.parametrize("code", [500, 503, 429, 408])
async def test_what_may_pass_is_tried_again_with_the_same_body(code):
    before = counted()
    with Receiver(status(code), status(code), status(204)) as receiver:
        async with notifying(receiver.url) as notifier:
            notifier.ended(RESTARTED)
            await all_told(notifier)
    assert len(receiver.bodies) == 3
    assert len(set(receiver.bodies)) == 1
    assert since(before) == {"delivered": 1}


@pytest.mark.parametrize(("code", "tries"), [(500, 3), (429, 3), (400, 1), (404, 1), (410, 1)])
async def test_what_is_refused_for_good_is_lost_and_said_and_the_next_one_is_told(code, tries):
    before = counted()
    with Receiver(*[status(code)] * tries, status(204)) as receiver, capture_logs() as lines:
        async with notifying(receiver.url) as notifier:
            notifier.ended(an_outcome(1))
            notifier.ended(an_outcome(2))
            await all_told(notifier)
    assert since(before) == {"refused": 1, "delivered": 1}
    assert len(receiver.bodies) == tries + 1
    (line,) = [line for line in lines if line["event"] == "notification_lost"]
    assert (line["id"], line["job"], line["kind"], line["reason"]) == (
        "o1",
        "stf/a",
        "restarted",
        f"the webhook answered {code}",
    )


NO_SECONDS = ("", "-5", "1e9", "inf", "9" * 5000, "\u00b2", "Wed, 21 Oct 2026 07:28:00 GMT")


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ("7", 7.0),
        ("3600", LONGEST_RETRY_AFTER_SECONDS),
        ("0", 0.0),
        *((nonsense, True) for nonsense in NO_SECONDS),
    ],
)
async def test_a_receiver_that_asks_for_a_pause_gets_it_within_reason(asked, waits):
    with Receiver(status(429, Retry_After=asked)) as receiver:
        webhook = http.Webhook(Settings(notify_url=receiver.url))
        with pytest.raises(NotDeliveredError) as caught:
            await webhook.post(b"{}")
        await webhook.close()
    assert wait_before_next_try(caught.value) == waits
    assert wait_before_next_try(KeyError("a fault of ours")) is False


async def test_with_nobody_there_it_is_tried_again_lost_and_said():
    before = counted()
    with Receiver() as gone:
        address = gone.url
    with capture_logs() as lines:
        async with notifying(address) as notifier:
            notifier.ended(RESTARTED)
            await all_told(notifier)
    assert since(before) == {"unanswered": 1}
    assert [line["reason"] for line in lines if line["event"] == "notification_lost"] == [
        "the webhook was not reached (ConnectError)"
    ]


@pytest.mark.parametrize("trick", ["hang", "drip"])
async def test_a_receiver_that_is_slow_without_end_is_left_alone_after_a_while(trick, monkeypatch):
    monkeypatch.setattr(http, "POST_SECONDS", 0.5)
    before = counted()
    with Receiver() as receiver:
        receiver._answers = [getattr(receiver, trick)]
        async with notifying(receiver.url) as notifier:
            notifier.ended(RESTARTED)
            await all_told(notifier)
    assert since(before) == {"unanswered": 1}


async def test_a_body_without_end_is_not_read():
    before = counted()
    with Receiver() as receiver:
        receiver._answers = [receiver.flood]
        async with notifying(receiver.url) as notifier:
            notifier.ended(RESTARTED)
            await all_told(notifier)
    assert since(before) == {"delivered": 1}
    assert len(receiver.bodies) == 1


HOSTILE = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n",
    "nothing": b"",
    "no status": b"HTTP/1.1\r\n\r\n",
    "status of four digits": b"HTTP/1.1 9999 Huge\r\n\r\n",
    "header of a megabyte": b"HTTP/1.1 500 No\r\nX: " + b"x" * 2**20 + b"\r\n\r\n",
    "header that is no text": b"HTTP/1.1 500 \xff\r\nRetry-After: \xff\xfe\r\n\r\n",
    "two lengths": b"HTTP/1.1 500 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "length below nothing": b"HTTP/1.1 500 No\r\nContent-Length: -1\r\n\r\n",
    "encoding nobody knows": b"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_answer_is_one_notice_lost_and_no_more(answer):
    before = counted()
    with Receiver(raw(answer), raw(answer), raw(answer), status(204)) as receiver, capture_logs() as lines:
        async with notifying(receiver.url) as notifier:
            notifier.ended(an_outcome(1))
            await all_told(notifier)
            receiver._answers = [status(204)]
            notifier.ended(an_outcome(2))
            await all_told(notifier)
    told = since(before)
    assert told.pop("delivered") == 1
    assert sum(told.values()) == 1
    assert [line["id"] for line in lines if line["event"] == "notification_lost"] == ["o1"]


async def test_a_redirect_is_not_followed():
    with Receiver() as elsewhere, Receiver(status(307, Location=elsewhere.url)) as receiver:
        async with notifying(receiver.url) as notifier:
            notifier.ended(RESTARTED)
            await all_told(notifier)
        assert len(receiver.bodies) == 1
        assert elsewhere.bodies == []


async def test_while_a_receiver_hangs_so_many_wait_and_the_rest_is_lost_counted_and_said():
    before = counted()
    with Receiver() as receiver, capture_logs() as lines:
        receiver._answers = [receiver.hang]
        async with notifying(receiver.url, queue=10) as notifier:
            for number in range(25):
                notifier.ended(an_outcome(number))  # returns, or this test would not go on
            assert since(before) == {"queue_full": 15}
            await notifier.close(0.0)
    assert since(before) == {"queue_full": 15, "stopped": 10}
    reasons = [line["reason"] for line in lines if line["event"] == "notification_lost"]
    assert reasons == ["queue_full"] * 15 + ["stopped"] * 10


# ------------------------------------------------------------------ the secret


@pytest.mark.parametrize(
    "broken", ["", "not a url", f"ftp://x/{SECRET}", f"http://[{SECRET}/", f"http://x:99999/{SECRET}"]
)
async def test_a_url_that_cannot_be_used_is_not_repeated(tmp_path, broken):
    file = tmp_path / "url"
    file.write_text(broken)
    before = counted()
    with capture_logs() as lines:
        notifier = Notifier(Settings(notify_url_file=str(file)))
        notifier.ended(RESTARTED)
        await all_told(notifier)
        await notifier.close(0.0)
    assert since(before) == {"unanswered": 1}
    assert lines[-1]["event"] == "notification_lost"
    assert SECRET not in str(lines)


async def test_whatever_happens_the_url_is_in_no_line_and_no_error():
    with Receiver(status(500), raw(b"no"), status(404)) as receiver, capture_logs() as lines:
        async with notifying(receiver.url) as notifier:
            notifier.ended(RESTARTED)
            await all_told(notifier)
            assert SECRET not in repr(notifier.__dict__)
    assert [line["event"] for line in lines if line["event"] == "notification_lost"]
    assert SECRET not in str(lines)
    assert SECRET not in str(receiver.bodies)


async def test_while_a_receiver_hangs_the_loop_that_heals_goes_on(monkeypatch):
    monkeypatch.setattr(http, "POST_SECONDS", SECONDS)
    with Receiver() as receiver:
        receiver._answers = [receiver.hang]
        async with notifying(receiver.url) as notifier:
            notifier.ended(RESTARTED)

            async def is_asked() -> bool:
                return bool(receiver.bodies)

            await until_async(is_asked, "the receiver to be asked", seconds=SECONDS)
            turns = 0
            while len(notifier._outbox) and turns < 1000:
                await asyncio.sleep(0)
                turns += 1
            assert turns == 1000
            assert receiver.answered == 0
