"""The dashboard for Grafana, as JSON: `docs/reference/grafana.json`."""

from __future__ import annotations

import json
from typing import NamedTuple


class Panel(NamedTuple):
    """One graph: its title, its unit in Grafana, and its series, PromQL by legend."""

    title: str
    unit: str
    series: dict[str, str]


def _quantile(name: str, quantile: float) -> str:
    """Return the quantile of a histogram over five minutes."""
    return f"histogram_quantile({quantile}, sum by (le) (rate({name}_seconds_bucket[5m])))"


PANELS = (
    Panel(
        "Images per second",
        "short",
        {"{{status}}": "sum by (status) (rate(imgsvc_images_total[5m]))"},
    ),
    Panel(
        "Backlog",
        "short",
        {
            "pending": "imgsvc_images_pending",
            "processing": "imgsvc_images_processing",
            "in flight": "imgsvc_in_flight",
            "requests": "imgsvc_requests_unfinished",
        },
    ),
    Panel(
        "Failed images and retries, by error code",
        "short",
        {
            "failed: {{code}}": 'sum by (code) (increase(imgsvc_images_total{status="failed"}[1h]))',
            "retry: {{code}}": "sum by (code) (increase(imgsvc_retries_total[1h]))",
        },
    ),
    Panel(
        "Time per image, 95th percentile",
        "s",
        {
            stage: _quantile(f"imgsvc_{stage}", 0.95)
            for stage in ("wait", "fetch", "compress", "store")
        },
    ),
    Panel(
        "Bytes",
        "Bps",
        {
            "input": "rate(imgsvc_input_bytes_total[5m])",
            "output": "rate(imgsvc_output_bytes_total[5m])",
        },
    ),
    Panel(
        "Images that needed less work",
        "short",
        {
            "not modified": "rate(imgsvc_images_not_modified_total[5m])",
            "same content": "rate(imgsvc_images_reused_total[5m])",
        },
    ),
    Panel("Workers", "short", {"all": "imgsvc_workers", "busy": "imgsvc_workers_busy"}),
    Panel(
        "Nodes of a cluster",
        "short",
        {
            "workers: {{node}}": "imgsvc_node_workers",
            "images in progress: {{node}}": "imgsvc_node_jobs",
            "images per second: {{node}}": "rate(imgsvc_node_images_total[5m])",
            "lost in an hour": "increase(imgsvc_nodes_lost_total[1h])",
        },
    ),
    Panel(
        "Uploads and finished requests in an hour",
        "short",
        {
            "upload: {{outcome}}": "sum by (outcome) (increase(imgsvc_uploads_total[1h]))",
            "finished: {{status}}": "sum by (status) (increase(imgsvc_requests_finished_total[1h]))",
        },
    ),
    Panel(
        "Webhooks",
        "short",
        {
            "pending": "imgsvc_webhooks_pending",
            "{{outcome}} in an hour": "sum by (outcome) (increase(imgsvc_webhooks_total[1h]))",
        },
    ),
    Panel("Free disk space", "bytes", {"free": "imgsvc_free_bytes"}),
    Panel(
        "Problems (0: none)",
        "short",
        {
            "storage not available": "1 - imgsvc_storage_available",
            "missing layers of confinement": "imgsvc_workers_missing_layers",
            "native module missing": "1 - imgsvc_native_module",
            "wrong keys in an hour": "increase(imgsvc_wrong_keys_total[1h])",
        },
    ),
    Panel(
        "Nodes of a cluster",
        "short",
        {
            "workers: {{node}}": "imgsvc_node_workers",
            "jobs: {{node}}": "imgsvc_node_jobs",
            "images per second: {{node}}": "rate(imgsvc_node_images_total[5m])",
            "nodes lost in an hour": "increase(imgsvc_nodes_lost_total[1h])",
        },
    ),
    Panel("Clients that watch a request", "short", {"watchers": "imgsvc_watchers"}),
)


def dashboard() -> str:
    """Return the dashboard as JSON. It asks for the Prometheus data source when it is imported."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": source,
            "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {
                    "refId": chr(ord("A") + n),
                    "datasource": source,
                    "expr": query,
                    "legendFormat": name,
                }
                for n, (name, query) in enumerate(panel.series.items())
            ],
        }
        for number, panel in enumerate(PANELS)
    ]
    variable = {"name": "datasource", "label": "Prometheus", "type": "datasource"}
    document = {
        "title": "imgsvc",
        "uid": "imgsvc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [variable | {"query": "prometheus"}]},
        "panels": panels,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
