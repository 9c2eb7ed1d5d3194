"""The pages of `docs/reference` that are made from the code, as text."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry

from imgsvc.cli import cli
from imgsvc.error_help import ERROR_HELP
from imgsvc.errors import ProblemCode
from imgsvc.service import running
from imgsvc.web.error_docs import ERROR_KINDS
from imgsvc.web.http.problems import PROBLEMS
from imgsvc.web.routes import ROUTES
from imgsvc.web.schema.openapi import openapi_document
from tests.docs.chart import draw_chart
from tests.docs.dashboard import dashboard
from tests.docs.llms import llms_text
from tests.harness.service import config_of
from tests.origin import ROOT

NOTE = "<!-- Made from the code by `python3 run.py docs`. -->"


async def generated_pages(folder: Path) -> dict[str, str]:
    """Return the text of every generated file, by its path. `folder` is for a data folder."""
    async with running(config_of(folder, server={"port": 0})) as service:
        metrics = metric_rows(service.metrics.registry)
    return {
        "docs/reference/settings.md": page(settings_page()),
        "docs/reference/errors.md": page(errors_page()),
        "docs/reference/api.md": page(api_page()),
        "docs/reference/command-line.md": page(command_line_page()),
        "docs/reference/metrics.md": page(metrics_page(metrics)),
        "docs/reference/grafana.json": dashboard(),
        "docs/images/speed.svg": draw_chart(),
        "llms.txt": llms_text(),
    }


def page(lines: Iterator[str]) -> str:
    """Return the text of a page: a note where it is from, and its lines."""
    return "\n".join([NOTE, "", *lines]).rstrip() + "\n"


def table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table and an empty one. Without rows, yield nothing."""
    if not rows:
        return
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in row)
        yield f"| {' | '.join(cells)} |"
    yield ""


def settings_page() -> Iterator[str]:
    """Yield the lines of the page of settings, made from config.toml."""
    yield from (
        "# Settings",
        "",
        "`config.toml` has all settings, commented out, with their defaults. An environment variable",
        "`IMGSVC_SECTION__KEY` overrides the file, and a command-line flag overrides both. In the",
        "environment, lists and tables are JSON; an empty text counts as not set. The file is",
        "`--config FILE`, else `$IMGSVC_CONFIG`, else `./config.toml`. A relative `data_dir` in it is",
        "relative to the file. An unknown key stops the start. `imgsvc config check` prints the",
        "settings that differ from their defaults.",
        "",
    )
    section, comment = "", ""
    rows: dict[str, list[tuple[str, ...]]] = {}
    for line in (ROOT / "config.toml").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.startswith("# "):
            comment = line.removeprefix("# ")
        elif line.startswith("#") and " = " in line:
            key, _, value = line.removeprefix("#").partition(" = ")
            rows.setdefault(section, []).append((f"`{section}.{key}`", f"`{value}`", comment))
    for name, settings in rows.items():
        yield from (f"## {name}", "")
        yield from table(("setting", "default", "description"), settings)


def errors_page() -> Iterator[str]:
    """Yield the lines of the page of error codes."""
    yield from (
        "# Error codes",
        "",
        "Every error of the API is `application/problem+json` (RFC 9457). `help` in it links to the",
        "entry of its code on the service's own page `/docs`, which has the same texts as this one.",
        "",
    )
    headings: dict[str, str] = {}
    for title, text, codes in ERROR_KINDS:
        yield from (f"## {title}", "", text, "")
        for code in codes:
            if code in headings:
                anchor = re.sub(r"[^\w -]", "", headings[code]).lower().replace(" ", "-")
                yield from (f"`{code}`: [see above](#{anchor}).", "")
                continue
            status = " {} {}".format(*PROBLEMS[code]) if isinstance(code, ProblemCode) else ""
            headings[code] = f"`{code}`{status}"
            help_text = ERROR_HELP[code]
            yield from (f"### {headings[code]}", "", help_text.cause, "")
            yield from (f"**What to do:** {help_text.action}", "")


def api_page() -> Iterator[str]:
    """Yield the lines of the page of the HTTP API."""
    document = openapi_document(ROUTES, cookie="imgsvc")
    yield from (
        "# HTTP API",
        "",
        "A running service has this page at `/docs`, with forms to try it, the OpenAPI description at",
        "`/openapi.json`, which has the schemas of all bodies, and a Postman collection at",
        "`/postman.json`. The [error codes](errors.md) and [examples with curl](../how-to/api.md) have",
        "pages of their own.",
        "",
    )
    for tag in document["tags"]:
        yield from (f"## {tag['name']}", "", tag["description"], "")
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation["tags"]:
                    yield from operation_lines(f"{method.upper()} {path}", operation)
    yield from ("## Webhooks", "")
    for name, operations in document["webhooks"].items():
        yield from operation_lines(f"POST {name}", operations["post"])


def operation_lines(title: str, operation: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about one operation of the OpenAPI document."""
    yield from (f"### `{title}`", "", f"{operation['summary']}.", "")
    if "description" in operation:
        yield from (operation["description"], "")
    rows = [
        (f"`{each['name']}`", each["in"], described(each["schema"]), each["description"])
        for each in operation["parameters"]
    ]
    yield from table(("parameter", "in", "value", "description"), rows)
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        yield from (f"Body: {', '.join(f'`{media_type}`' for media_type in body)}.", "")
    responses = [
        (f"`{status}`", each["description"], ", ".join(f"`{m}`" for m in each.get("content", {})))
        for status, each in operation["responses"].items()
    ]
    yield from table(("status", "response", "content"), responses)


def described(schema: dict[str, Any]) -> str:
    """Return the type, the limits and the default of a parameter in a few words."""
    if "enum" in schema:
        text = ", ".join(f"`{value}`" for value in schema["enum"])
    else:
        text = str(schema.get("type", ""))
    limits = [
        f"{key} {schema[key]}" for key in ("minimum", "maximum", "maxLength") if key in schema
    ]
    default = schema.get("default")
    if default is not None and default not in ("", []):
        limits.append(f"default `{default if isinstance(default, str) else json.dumps(default)}`")
    return "; ".join([text, *limits])


def command_line_page() -> Iterator[str]:
    """Yield the lines of the page of commands."""
    yield from ("# Command line", "")
    yield from (
        "`imgsvc COMMAND`. If imgsvc is not installed, `python3 run.py COMMAND` is the same.",
        "[How to use it](../how-to/command-line.md) has examples.",
        "",
    )
    for name in sorted(cli.commands):
        yield from command_lines(f"imgsvc {name}", cli.commands[name], click.Context(cli))


def command_lines(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    """Yield the lines about a command, and about its subcommands."""
    context = click.Context(command, parent=parent, info_name=name)
    if isinstance(command, click.Group):
        for subcommand in sorted(command.commands):
            yield from command_lines(f"{name} {subcommand}", command.commands[subcommand], context)
        return
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield from (f"## {name}", "", f"`{usage}`", "", inspect.cleandoc(command.help or ""), "")
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    rows = [(f"`{record[0]}`", record[1]) for record in records if record]
    yield from table(("option", "description"), rows)


def metric_rows(registry: CollectorRegistry) -> list[tuple[str, ...]]:
    """Return the name, type, labels and description of every metric of a registry."""
    rows: list[tuple[str, ...]] = []
    for collector in registry._collector_to_names:  # labels of an unused counter are only there
        for metric in collector.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
            rows.append((f"`{name}`", metric.type, labels, metric.documentation))
    return sorted(rows)


def metrics_page(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of the page of metrics."""
    yield from (
        "# Metrics",
        "",
        "`/metrics` has these metrics for Prometheus. With keys, it needs one with the role `read` or",
        "`admin`. Times are in seconds, sizes in bytes. A histogram has the series `…_bucket`, `…_sum`",
        "and `…_count`. [grafana.json](grafana.json) is a dashboard for Grafana: import it, and choose",
        "the Prometheus data source. [Monitoring](../how-to/monitoring.md) says what to watch.",
        "",
    )
    yield from table(("metric", "type", "labels", "description"), rows)
