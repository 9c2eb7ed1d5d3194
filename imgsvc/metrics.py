"""The Prometheus metrics. The service creates one `Metrics` and passes it to its components."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKET_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one service, in their own registry. Units are seconds and bytes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.uploads = self._counter("uploads", "Uploads, by outcome.", "outcome")
        self.requests_finished = self._counter(
            "requests_finished", "Finished requests, by status.", "status"
        )
        self.images = self._counter(
            "images", "Finished images, by status and error code.", "status", "code"
        )
        self.retries = self._counter("retries", "Retries scheduled, by error code.", "code")
        self.reused = self._counter(
            "images_reused",
            "Images that use the stored output of an earlier image with the same content.",
        )
        self.not_modified = self._counter(
            "images_not_modified", "Images whose source was not modified since an earlier download."
        )
        self.bytes_in = self._counter("input_bytes", "Bytes of sources fetched.")
        self.bytes_out = self._counter("output_bytes", "Bytes of outputs stored.")
        self.webhooks = self._counter("webhooks", "Webhook attempts, by outcome.", "outcome")
        self.wrong_keys = self._counter("wrong_keys", "API calls with a wrong API key.")
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
        self._create_node_metrics()
        self.fetch_seconds = self._histogram("fetch", "Time to fetch an image.")
        self.wait_seconds = self._histogram("wait", "Time an image waited for a download slot.")
        self.compress_seconds = self._histogram(
            "compress", "Time to compress an image, including the wait for a worker."
        )
        self.store_seconds = self._histogram("store", "Time to store an image.")

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"imgsvc_{name}", description, labels, registry=self.registry)

    def _create_node_metrics(self) -> None:
        """Create the metrics of a cluster."""
        self.nodes_lost = Counter(
            "imgsvc_nodes_lost",
            "Nodes of the cluster that were lost: they left without finishing.",
            registry=self.registry,
        )
        self.node_images = Counter(
            "imgsvc_node_images",
            "Images fetched, by node of the cluster.",
            ["node"],
            registry=self.registry,
        )
        self._node_workers = Gauge(
            "imgsvc_node_workers",
            "Worker processes, by node of the cluster.",
            ["node"],
            registry=self.registry,
        )
        self._node_jobs = Gauge(
            "imgsvc_node_jobs",
            "Images being fetched, compressed or stored, by node of the cluster.",
            ["node"],
            registry=self.registry,
        )

    def _histogram(self, name: str, description: str) -> Histogram:
        return Histogram(
            f"imgsvc_{name}_seconds", description, buckets=_BUCKET_SECONDS, registry=self.registry
        )

    def add_node(self, name: str, workers: Callable[[], int], jobs: Callable[[], int]) -> None:
        """Register the gauges of a node, which read their values like those of `gauge`."""
        self._node_workers.labels(name).set_function(workers)
        self._node_jobs.labels(name).set_function(jobs)

    def remove_node(self, name: str) -> None:
        """Remove the gauges of a node."""
        self._node_workers.remove(name)
        self._node_jobs.remove(name)

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Register a gauge. `read` returns its value, each time that Prometheus reads the metrics."""
        Gauge(f"imgsvc_{name}", description, registry=self.registry).set_function(read)
