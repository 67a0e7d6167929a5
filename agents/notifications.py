"""The webhook: each outcome that somebody wants to hear of, sent once, by the worker that reads the steps log.

At most once, from memory (docs/decisions/0012-notifications.md). Its URL is a secret: in no line, metric or error.
"""

import time
from collections.abc import Callable

import stamina
import structlog

from agents.outbox import Loss, Outbox, Recently
from sf_healer.adapters import metrics
from sf_healer.adapters.http import NotDeliveredError, Webhook
from sf_healer.core.admission import Fleet, Phase
from sf_healer.core.commands import Command, Outcome
from sf_healer.settings import NotifyFormat, Settings
from sf_healer.views.notices import Notice, Telling, as_json, as_slack, telling_of, telling_of_storm

log = structlog.get_logger(__name__)

#: Notices that wait for a receiver; more are dropped. Each is a few KiB.
QUEUE = 500
#: A Job that is refused again and again for the same reason is told of once in this while.
REPEAT_SECONDS = 3600.0
_REMEMBERED = 10_000
#: What may become of a notice.
_RESULTS = ("delivered", "refused", "unanswered", *Loss)

ATTEMPTS = 5
#: After this no new attempt begins.
RETRY_SECONDS = 60.0
#: A receiver may ask to be left alone; for longer than this it is not.
LONGEST_RETRY_AFTER_SECONDS = 30.0


class Notifier:
    """Hears what happens and tells the webhook of the settings; without one it tells nobody."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic, queue: int = QUEUE) -> None:
        self._webhook = Webhook(settings) if settings.notifies else None
        for result in _RESULTS if settings.notifies else ():
            metrics.NOTIFICATIONS.labels(result=result)  # from nought on, else the first loss is no increase
        self._on = settings.notify_kinds
        self._write = as_slack if settings.notify_format is NotifyFormat.SLACK else as_json
        self._recently = Recently(REPEAT_SECONDS, limit=_REMEMBERED, clock=clock)
        self._outbox: Outbox[Notice] = Outbox(self._deliver, _lost, limit=queue)

    def admitted(self, command: Command) -> None:
        """Nobody is told that a restart begins: its end follows soon."""

    def ended(self, outcome: Outcome) -> None:
        """Tell what became of a command."""
        self._tell(telling_of(outcome))

    def fleet_moved(self, before: Phase, after: Phase, since: float, fleet: Fleet) -> None:
        """Tell that a storm began or ended."""
        self._tell(telling_of_storm(before, after, since, fleet))

    async def close(self, grace_seconds: float) -> None:
        """Send what can be sent within the grace; the rest is dropped."""
        await self._outbox.close(grace_seconds)
        if self._webhook is not None:
            await self._webhook.close()

    def _tell(self, telling: Telling | None) -> None:
        wanted = self._webhook is not None and telling is not None and not self._on.isdisjoint(telling.on)
        if wanted and telling is not None and self._recently.first(telling.same_as):
            self._outbox.put(telling.notice)

    async def _deliver(self, notice: Notice) -> None:
        assert self._webhook is not None
        body = self._write(notice)
        try:
            async for attempt in stamina.retry_context(
                on=wait_before_next_try, attempts=ATTEMPTS, timeout=RETRY_SECONDS, wait_initial=1.0, wait_max=20.0
            ):
                with attempt:
                    await self._webhook.post(body)
        except NotDeliveredError as failure:
            metrics.NOTIFICATIONS.labels(result=failure.result).inc()
            log.warning("notification_lost", kind=notice.kind, job=notice.job, id=notice.id, reason=str(failure))
            return
        metrics.NOTIFICATIONS.labels(result="delivered").inc()


def wait_before_next_try(error: Exception) -> bool | float:
    """Say whether to try again, or after how many seconds where the receiver asked for them."""
    if not isinstance(error, NotDeliveredError) or not error.may_try_again:
        return False
    if error.retry_after_seconds is None:
        return True
    return min(error.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS)


def _lost(notice: Notice, why: Loss, detail: str) -> None:
    metrics.NOTIFICATIONS.labels(result=why).inc()
    reason = f"{why}: {detail}" if detail else str(why)
    log.warning("notification_lost", kind=notice.kind, job=notice.job, id=notice.id, reason=reason)
