"""Workers are confined: a probe that runs as a worker's function is denied all that it tries."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imgsvc.workers.confinement import LAYERS, unavailable_layers
from tests.origin import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is for Linux")

MAIN = """
import asyncio, ctypes, json, os, sys, tempfile
from pathlib import Path
from imgsvc.config_loader import load_config
from imgsvc.image_types import CompressionSettings
from imgsvc.serve import protect_secrets
from imgsvc.service import opened
from imgsvc.workers.one_shot import OneShotLimits, OneShotRunner
from imgsvc.workers.pool import WorkerPool

async def main():
    config = load_config()
    protect_secrets()
    task = json.load(sys.stdin)
    confined = task["confined"]
    async with opened(config) as service, service.listening():
        task |= {"pid": os.getpid(), "port": int(service.url.rstrip("/").rpartition(":")[2])}
        task |= {"data_dir": str(config.storage.data_dir)}
        function = "tests.confinement_probe:compress"
        pool = WorkerPool(config.compress, function=function, confined=confined)
        await pool.start()
        image = await pool.compress(json.dumps(task).encode(), CompressionSettings())
        await pool.close(1)
        runner = OneShotRunner(OneShotLimits(2**30, 60, confined=confined))
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(task).encode())
            file.seek(0)
            async with runner.run("tests.confinement_probe:read", file.fileno()) as pieces:
                piece = b"".join([piece async for piece in pieces])
        runner.close()
        environments = []
        for entry in Path("/proc").iterdir():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if parent == str(os.getpid()):
                    environments.append((entry / "environ").read_text())
            except OSError:
                pass
        print(json.dumps({
            "worker": json.loads(image.data),
            "spreadsheet": json.loads(piece),
            "missing": pool.missing_layers,
            "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
            "environments": environments,
            "database": config.storage.data_dir.joinpath("imgsvc.db").exists(),
        }))

if __name__ == "__main__":
    asyncio.run(main())
"""

KEY, WEBHOOK_SECRET = f"key-{secrets.token_hex(16)}", f"whsec_{secrets.token_hex(15)}AA"


def described(secret: str) -> dict[str, Any]:
    """Return a description from which the probe can find a secret without holding it."""
    begin, rest = secret[:14], secret[14:]
    digest = hashlib.sha256(rest.encode()).hexdigest()
    return {"begin": begin, "size": len(rest), "rest": digest}


def run_probe(checkout: Path, **more: object) -> Any:
    """Run the probe in workers of a service that runs in a checkout with the default `data_dir`."""
    shutil.copytree(ROOT / "imgsvc", checkout / "imgsvc")
    (checkout / "main.py").write_text(MAIN)
    (checkout / "config.toml").write_text(
        f'[server]\nport = 0\n[compress]\nworkers = 1\n[webhook]\nsecret = "{WEBHOOK_SECRET}"\n'
    )
    task = {
        "confined": True,
        "config": str(checkout / "config.toml"),
        "secrets": [described(KEY), described(WEBHOOK_SECRET)],
        **more,
    }
    process = subprocess.run(
        [sys.executable, "-P", "main.py"],
        input=json.dumps(task).encode(),
        capture_output=True,
        cwd=checkout,
        env={
            **{name: value for name, value in os.environ.items() if name != "IMGSVC_CONFIG"},
            "PYTHONPATH": f"{checkout}:{ROOT}",
            "IMGSVC_SERVER__API_KEYS": json.dumps([KEY]),
        },
        check=False,
    )
    assert process.returncode == 0, process.stderr.decode()[-4000:]
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_probe(tmp_path_factory.mktemp("checkout"))


@pytest.mark.parametrize("process", ["worker", "spreadsheet"])
def test_probe_in_confined_worker_is_denied_everything(report: Any, process: str) -> None:
    assert unavailable_layers() == report["missing"] == []
    attempts = report[process]["attempts"]
    assert {name: result for name, result in attempts.items() if result != "denied"} == {}
    assert len(attempts) > 50
    assert report["database"]


@pytest.mark.parametrize("process", ["worker", "spreadsheet"])
def test_confined_worker_can_do_what_decoders_need(report: Any, process: str) -> None:
    results = report[process]["needed"]
    assert {name: r for name, r in results.items() if not r.startswith("allowed")} == {}


@pytest.mark.parametrize("process", ["worker", "spreadsheet"])
def test_worker_holds_no_secret_and_no_environment(report: Any, process: str) -> None:
    assert report[process]["environment"] == {}
    assert report[process]["secrets"] == []


def test_child_processes_do_not_inherit_settings_and_main_process_is_not_dumpable(
    report: Any,
) -> None:
    assert report["dumpable"] == 0
    assert len(report["environments"]) >= 2  # the fork server and the resource tracker
    assert not any("IMGSVC_" in each for each in report["environments"])


def test_probe_in_unconfined_worker_is_not_denied(tmp_path: Path) -> None:
    """The probe tries what would work without the confinement."""
    config, database = tmp_path / "config.toml", tmp_path / "data" / "imgsvc.db"
    files = [f"read {config}", f"read {database}", f"write in {tmp_path}", "create table", "list /"]
    only = ["tcp", "connect", "listen", "kill", "fork", "spawn", "exec", "memfd", *files]
    report = run_probe(tmp_path, confined=False, only=only)
    for process in ("worker", "spreadsheet"):
        attempts = report[process]["attempts"]
        assert set(attempts) == set(only)
        assert [name for name, result in attempts.items() if result == "denied"] == []


def test_layers_that_the_system_does_not_offer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert unavailable_layers() == list(LAYERS)
