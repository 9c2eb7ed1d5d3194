"""Tests of the route table: a new route is one row and its handler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from imgsvc.web.routes import ROUTES
from tests.origin import ROOT

DEMO_HANDLER = '''"""Greetings."""

from typing import Annotated

from aiohttp import web
from pydantic import Field

from imgsvc.web.schema.options import Options, parse_query
from imgsvc.web.schema.responses import ResponseModel, json_response


class DemoQuery(Options):
    name: Annotated[str, Field(description="Name to greet.")] = "you"


class Greeting(ResponseModel):
    """A greeting."""

    text: str


class DemoHandler:
    async def demo(self, request: web.Request) -> web.Response:
        """`GET /demo`"""
        return json_response({"text": f"Hello, {parse_query(DemoQuery, request).name}!"})
'''
"""A new file, imgsvc/web/handlers/demo.py."""

DEMO_ROW = """    Route(
        "GET",
        "/demo",
        lambda handlers: handlers.demo.demo,
        tag="Operations",
        operation_id="demo",
        summary="Return a greeting",
        query=DemoQuery,
        responses={200: ResponseSpec("The greeting.", json_content(Greeting))},
    ),
"""
ADDED_BEFORE = {
    "from imgsvc.web.handlers.health import": (
        "from imgsvc.web.handlers.demo import DemoHandler, DemoQuery, Greeting\n"
    ),
    "        self.static_files = StaticFilesHandler()": "        self.demo = DemoHandler()\n",
    '    Route("GET", "/openapi.json"': DEMO_ROW,
}
"""The lines added to imgsvc/web/routes.py, by the text that they are inserted before."""

CALLS = """
import asyncio, json, pathlib, sys
from tests.harness.http import open_http

async def main():
    server = {"api_keys": ["key-of-the-tests"]}
    async with open_http(pathlib.Path(sys.argv[1]), server=server) as http:
        key = {"X-API-Key": "key-of-the-tests"}
        no_key = await http.get("/demo")
        greeting = await http.get("/demo?name=Ada", key)
        invalid = await http.get("/demo?nam=Ada", key)
        wrong_method = await http.call("DELETE", "/demo", headers=key)
        document = (await http.get("/openapi.json")).json()
        print(json.dumps({
            "noKey": no_key.status,
            "greeting": greeting.json(),
            "invalid": invalid.problem()["type"],
            "allow": wrong_method.headers["Allow"],
            "operation": document["paths"]["/demo"]["get"],
            "schema": document["components"]["schemas"]["Greeting"],
        }))

asyncio.run(main())
"""


def test_adding_a_route_changes_the_table_and_adds_a_handler(tmp_path: Path) -> None:
    package = tmp_path / "copy" / "imgsvc"
    shutil.copytree(ROOT / "imgsvc", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "web" / "handlers" / "demo.py").write_text(DEMO_HANDLER)
    table = (package / "web" / "routes.py").read_text()
    for anchor, lines in ADDED_BEFORE.items():
        assert table.count(anchor) == 1
        table = table.replace(anchor, lines + anchor)
    (package / "web" / "routes.py").write_text(table)
    environment = {**os.environ, "PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}"}
    result = subprocess.run(
        [sys.executable, "-P", "-c", CALLS, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert seen["noKey"] == 401
    assert seen["greeting"] == {"text": "Hello, Ada!"}
    assert seen["invalid"] == "urn:imgsvc:problem:invalid-option"
    assert seen["allow"] == "GET, HEAD"
    assert [each["name"] for each in seen["operation"]["parameters"]] == ["name"]
    assert {"200", "400", "401", "429", "500", "503"} == seen["operation"]["responses"].keys()
    assert seen["operation"]["security"]
    assert seen["schema"]["properties"]["text"]["type"] == "string"


def test_table_has_one_row_per_method_and_path() -> None:
    rows = [(method, route.path) for route in ROUTES for method in route.methods]
    assert len(set(rows)) == len(rows)
