"""The Prometheus metrics. The service creates one `Metrics` and passes it to its components."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKET_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one service, in their own registry. Units are seconds and bytes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.uploads = Counter(
            "imgsvc_uploads", "Uploads, by outcome.", ["outcome"], registry=self.registry
        )
        self.requests_finished = Counter(
            "imgsvc_requests_finished",
            "Finished requests, by status.",
            ["status"],
            registry=self.registry,
        )
        self.images = Counter(
            "imgsvc_images",
            "Finished images, by status and error code.",
            ["status", "code"],
            registry=self.registry,
        )
        self.retries = Counter(
            "imgsvc_retries", "Retries scheduled, by error code.", ["code"], registry=self.registry
        )
        self.reused = Counter(
            "imgsvc_images_reused",
            "Images that use the stored output of an earlier image with the same content.",
            registry=self.registry,
        )
        self.not_modified = Counter(
            "imgsvc_images_not_modified",
            "Images whose source was not modified since an earlier download.",
            registry=self.registry,
        )
        self.bytes_in = Counter(
            "imgsvc_input_bytes", "Bytes of sources fetched.", registry=self.registry
        )
        self.bytes_out = Counter(
            "imgsvc_output_bytes", "Bytes of outputs stored.", registry=self.registry
        )
        self.webhooks = Counter(
            "imgsvc_webhooks", "Webhook attempts, by outcome.", ["outcome"], registry=self.registry
        )
        self.requests_unfinished = Gauge(
            "imgsvc_requests_unfinished", "Unfinished requests.", registry=self.registry
        )
        self.images_pending = Gauge(
            "imgsvc_images_pending", "Images that wait for processing.", registry=self.registry
        )
        self.images_processing = Gauge(
            "imgsvc_images_processing", "Images with the status processing.", registry=self.registry
        )
        self.webhooks_pending = Gauge(
            "imgsvc_webhooks_pending",
            "Webhooks that are not delivered yet.",
            registry=self.registry,
        )
        self.fetch_seconds = self._histogram("fetch", "Time to fetch an image.")
        self.wait_seconds = self._histogram("wait", "Time an image waited for a download slot.")
        self.compress_seconds = self._histogram(
            "compress", "Time to compress an image, including the wait for a worker."
        )
        self.store_seconds = self._histogram("store", "Time to store an image.")

    def _histogram(self, name: str, description: str) -> Histogram:
        return Histogram(
            f"imgsvc_{name}_seconds", description, buckets=_BUCKET_SECONDS, registry=self.registry
        )

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Register a gauge. `read` returns its value, each time that Prometheus reads the metrics."""
        Gauge(f"imgsvc_{name}", description, registry=self.registry).set_function(read)
