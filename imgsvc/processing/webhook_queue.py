"""Due webhooks: taken from the database, sent, and their outcome written back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

from imgsvc.config import WebhookConfig
from imgsvc.database.webhook_store import WebhookStore
from imgsvc.metrics import Metrics
from imgsvc.models import Delivery
from imgsvc.network.retry import webhook_retry_delay
from imgsvc.network.webhooks import WebhookSender

log = logging.getLogger(__name__)

SENT_AT_ONCE = 64
SENT_TO_ONE = 8
"""To one receiver, at once: one that hangs holds up no other's."""
IDLE_SECONDS = 60.0
UNNOTED_SECONDS = 10.0
"""How long a delivery rests whose outcome could not be written down."""


class WebhookQueue:
    """Sends what is due. The delivery's row is the truth: it is written in the commit that finishes
    the request, and a process that dies between sending and noting it sends again under the same id.
    """

    def __init__(
        self,
        deliveries: WebhookStore,
        sender: WebhookSender,
        config: WebhookConfig,
        metrics: Metrics,
        *,
        mark_changed: Callable[[Iterable[int]], None],
    ) -> None:
        self._deliveries = deliveries
        self._sender = sender
        self._config = config
        self._metrics = metrics
        self._mark_changed = mark_changed
        self._wake = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Say that there may be something new to deliver."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver for as long as the service runs; when cancelled, what is being sent is given up."""
        try:
            while True:
                self._wake.clear()
                try:
                    pause = await self._start_due()
                except Exception:
                    log.exception("due webhooks could not be read; trying again")
                    pause = 5.0
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            for task in self._sending.values():
                task.cancel()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)

    async def _start_due(self) -> float:
        """Start what is due; give the seconds until there may be more."""
        room = SENT_AT_ONCE - len(self._sending)
        if room <= 0:
            return IDLE_SECONDS
        now = time.time()
        # One whose outcome is noted while this reads may still be read as due: it is left out.
        sending = set(self._sending)
        due = await self._deliveries.due(now, SENT_AT_ONCE * 2, per_receiver=SENT_TO_ONE)
        for delivery in due:
            if room > 0 and delivery.delivery_id not in sending:
                room -= 1
                task = asyncio.create_task(self._attempt(delivery))
                self._sending[delivery.delivery_id] = task
                task.add_done_callback(partial(self._sent, delivery.delivery_id))
        next_at = await self._deliveries.next_due(after=now)
        if next_at is None:
            return IDLE_SECONDS
        return min(IDLE_SECONDS, max(0.05, next_at - time.time()))

    def _sent(self, delivery_id: str, _task: asyncio.Task[None]) -> None:
        del self._sending[delivery_id]
        self._wake.set()

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            await self._deliver(delivery)
        except Exception:
            log.exception("a webhook's outcome could not be noted; it will be sent again")
            await asyncio.sleep(UNNOTED_SECONDS)

    async def _deliver(self, delivery: Delivery) -> None:
        result = await self._sender.send(delivery)
        attempts = delivery.attempts + 1
        extra = {"request": delivery.request_id, "delivery": delivery.delivery_id}
        if result.ok:
            await self._deliveries.record_success(delivery.delivery_id)
            log.info("webhook delivered", extra=extra | {"attempts": attempts})
        else:
            pause = (
                None if result.gone else webhook_retry_delay(attempts, self._config.pauses_seconds)
            )
            next_at = None if pause is None else time.time() + pause
            error = result.error or "the receiver did not accept it"
            await self._deliveries.record_failure(delivery.delivery_id, error, next_at)
            log.warning(
                "webhook failed", extra=extra | {"error": error, "next_try_in_seconds": pause}
            )
        self._metrics.webhooks.labels("delivered" if result.ok else "failed").inc()
        self._mark_changed([delivery.request_key])
