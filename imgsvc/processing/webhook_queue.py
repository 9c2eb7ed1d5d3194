"""The webhook queue: reads due webhooks from the database, sends them, and records the outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial

from imgsvc.config import WebhookConfig
from imgsvc.database.webhook_store import WebhookStore
from imgsvc.metrics import Metrics
from imgsvc.models import Delivery
from imgsvc.network.retry import webhook_retry_delay
from imgsvc.network.webhooks import WebhookSender
from imgsvc.processing.events import Events
from imgsvc.waiting import wait_for_event

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """The limits of the webhook queue."""

    concurrent: int = 64
    """Webhooks sent at the same time."""
    per_receiver: int = 8
    """Webhooks sent to one receiver at the same time, so that one that hangs does not delay others."""
    poll_seconds: float = 60.0
    """Longest time between two reads of the due webhooks, even if nothing wakes the queue."""
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
        limits = self._limits
        free_slots = limits.concurrent - len(self._sending)
        if free_slots <= 0:
            return limits.poll_seconds
        now = time.time()
        # A webhook whose outcome is recorded during this read may still be read as due: skip it.
        sending = set(self._sending)
        due = await self._store.due(now, 2 * limits.concurrent, per_receiver=limits.per_receiver)
        for delivery in due:
            if free_slots > 0 and delivery.delivery_id not in sending:
                free_slots -= 1
                task = asyncio.create_task(self._attempt(delivery))
                self._sending[delivery.delivery_id] = task
                task.add_done_callback(partial(self._on_attempt_done, delivery.delivery_id))
        next_at = await self._store.next_due(after=now)
        if next_at is None:
            return limits.poll_seconds
        return min(limits.poll_seconds, max(0.05, next_at - time.time()))

    def _on_attempt_done(self, delivery_id: str, _task: asyncio.Task[None]) -> None:
        del self._sending[delivery_id]
        self._wake.set()

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            await self._send(delivery)
        except Exception:
            log.exception("recording a webhook's outcome failed; it will be sent again")
            await asyncio.sleep(self._limits.unrecorded_delay_seconds)

    async def _send(self, delivery: Delivery) -> None:
        result = await self._sender.send(delivery)
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
