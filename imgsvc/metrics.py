"""What the service counts, for Prometheus. One object, made once and handed to whoever counts."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The service's own figures, in a registry of their own. Seconds and bytes are the units."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.uploads = Counter(
            "imgsvc_uploads", "Uploads, by how they ended.", ["outcome"], registry=self.registry
        )
        self.requests_finished = Counter(
            "imgsvc_requests_finished",
            "Finished requests, by status.",
            ["status"],
            registry=self.registry,
        )
        self.images = Counter(
            "imgsvc_images",
            "Images that are done, by status and error code.",
            ["status", "code"],
            registry=self.registry,
        )
        self.retries = Counter(
            "imgsvc_retries", "Tries that are to be made again.", ["code"], registry=self.registry
        )
        self.reused = Counter(
            "imgsvc_images_reused",
            "Images whose source had been compressed before.",
            registry=self.registry,
        )
        self.bytes_in = Counter(
            "imgsvc_input_bytes", "Bytes of sources that were fetched.", registry=self.registry
        )
        self.bytes_out = Counter(
            "imgsvc_output_bytes", "Bytes of outputs that were stored.", registry=self.registry
        )
        self.webhooks = Counter(
            "imgsvc_webhooks", "Webhook tries, by outcome.", ["outcome"], registry=self.registry
        )
        self.fetch_seconds = self._histogram("fetch", "fetching an image took")
        self.wait_seconds = self._histogram("wait", "an image waited for its turn at its host")
        self.compress_seconds = self._histogram(
            "compress", "compressing an image took, with its wait for a worker"
        )
        self.store_seconds = self._histogram("store", "storing an image took")

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(
            f"imgsvc_{name}_seconds", f"How long {what}.", buckets=_SECONDS, registry=self.registry
        )

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Publish a figure that is read when Prometheus asks for it."""
        Gauge(f"imgsvc_{name}", what, registry=self.registry).set_function(read)
