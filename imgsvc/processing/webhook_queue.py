"""The webhook queue: reads due webhooks from the database, sends them, and records the outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial

from imgsvc.config import WebhookConfig
from imgsvc.database.index_keys import receiver_key
from imgsvc.database.webhook_store import WebhookStore
from imgsvc.errors import ImageError
from imgsvc.logs import RARELY
from imgsvc.machine_errors import MACHINE_ERROR_EVENT, is_machine_error
from imgsvc.metrics import Metrics
from imgsvc.models import Delivery
from imgsvc.network.retry import webhook_retry_delay
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing.events import Events
from imgsvc.processing.receivers import ReceiverLimits, Receivers, ReceiverSlot
from imgsvc.waiting import wait_for_event

log = logging.getLogger(__name__)

CLOCK_DRIFT_SECONDS = 60.0
"""A webhook that is due later than the longest delay and this time was scheduled by a clock that was
ahead."""


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """The limits of the webhook queue."""

    receivers: ReceiverLimits = ReceiverLimits()
    poll_seconds: float = 60.0
    """Longest time between two reads of the due webhooks, even if nothing wakes the queue."""
    scan_seconds: float = 1.0
    """Time between two reads if there are more receivers than one read scans, and none is due."""
    unrecorded_delay_seconds: float = 10.0
    """Delay before a webhook is sent again if its outcome could not be recorded."""


class WebhookQueue:
    """Sends due webhooks, at least once each.

    The delivery's row holds the state. It is written in the commit that finishes the request. If the
    process ends after sending and before recording the outcome, the webhook is sent again under the
    same id.
    """

    def __init__(
        self,
        store: WebhookStore,
        sender: WebhookSender,
        config: WebhookConfig,
        *,
        events: Events,
        metrics: Metrics,
        limits: WebhookLimits = WebhookLimits(),
    ) -> None:
        self._store = store
        self._sender = sender
        self._config = config
        self._events = events
        self._metrics = metrics
        self._limits = limits
        self._longest_delay = max(config.retry_delays_seconds, default=0.0) + CLOCK_DRIFT_SECONDS
        self._receivers = Receivers(limits.receivers)
        self._wake = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Read the due webhooks now: there may be a new one."""
        self._wake.set()

    async def run(self) -> None:
        """Send webhooks for as long as the service runs. Cancelling this aborts the ones being sent."""
        try:
            while True:
                self._wake.clear()
                try:
                    pause = await self._start_due()
                except Exception:
                    log.exception("reading due webhooks failed; retrying")
                    pause = 5.0
                await wait_for_event(self._wake, pause)
        finally:
            for task in self._sending.values():
                task.cancel()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def _start_due(self) -> float:
        """Start sending due webhooks; return the seconds until more may be due."""
        limits, receivers = self._limits, self._receivers
        if receivers.free_slots <= 0:
            return limits.poll_seconds
        now = time.time()
        due, more = await self._store.due(
            now,
            receivers.free_slots,
            receivers.free_slots_of,
            longest_delay=self._longest_delay,
            # A webhook whose outcome is recorded during this read may still be read as due.
            excluded=frozenset(self._sending),
        )
        for delivery in due:
            key = receiver_key(delivery.url)
            if receivers.free_slots_of(key) > 0:
                slot = receivers.start(key)
                task = asyncio.create_task(self._attempt(delivery))
                self._sending[delivery.delivery_id] = task
                task.add_done_callback(partial(self._on_attempt_done, delivery.delivery_id, slot))
        if more:
            return 0.0 if due else limits.scan_seconds
        pauses = [limits.poll_seconds, receivers.next_probe()]
        next_at = await self._store.next_due(after=now)
        pauses.append(None if next_at is None else next_at - time.time())
        return max(0.05, min(pause for pause in pauses if pause is not None))

    def _on_attempt_done(
        self, delivery_id: str, slot: ReceiverSlot, _task: asyncio.Task[None]
    ) -> None:
        del self._sending[delivery_id]
        self._receivers.release(slot)
        self._wake.set()

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            await self._send(delivery)
        except Exception as error:
            if is_machine_error(error):
                log.warning(MACHINE_ERROR_EVENT, extra={"reason": str(error), **RARELY})
            else:
                log.exception("recording a webhook's outcome failed; it will be sent again")
            await asyncio.sleep(self._limits.unrecorded_delay_seconds)

    async def _send(self, delivery: Delivery) -> None:
        result = await self._sender.send(delivery)
        failure = None if result.code is None else ImageError(result.code, result.error or "")
        self._receivers.record(receiver_key(delivery.url), failure)
        attempts = delivery.attempts + 1
        extra = {"request": delivery.request_id, "delivery": delivery.delivery_id}
        if result.ok:
            await self._store.record_success(delivery.delivery_id)
            log.info("webhook delivered", extra=extra | {"attempts": attempts})
        else:
            delay = (
                None
                if result.gone
                else webhook_retry_delay(attempts, self._config.retry_delays_seconds)
            )
            next_at = None if delay is None else time.time() + delay
            error = result.error or "The receiver did not accept the webhook."
            await self._store.record_failure(delivery.delivery_id, error, next_at)
            log.warning("webhook failed", extra=extra | {"error": error, "retry_in_seconds": delay})
        self._metrics.webhooks.labels("delivered" if result.ok else "failed").inc()
        self._events.mark_changed([delivery.request_key])
