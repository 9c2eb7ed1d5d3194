"""The `imgsvc` command as a separate process."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.origin import ROOT

LOOPBACK = {"IMGSVC_FETCH__ALLOWED_NETWORKS": '["127.0.0.0/8"]', "IMGSVC_COMPRESS__WORKERS": "1"}


@dataclass(frozen=True)
class Result:
    """A finished command: its exit code and what it printed to stdout and stderr."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class CommandLine:
    """The `imgsvc` command with `folder` as its working directory."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, **environ: str
    ) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("IMGSVC_")}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "imgsvc", *arguments],
            cwd=self.folder,
            env=environment | {"PYTHONPATH": str(ROOT)} | LOOPBACK | environ,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, **environ: str) -> Result:
        process = self.start(*arguments, stdin=subprocess.DEVNULL, **environ)
        out, err = process.communicate(timeout=90)
        assert "Traceback" not in err, err
        return Result(process.returncode, out, err)

    def write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name

    def rows(self, name: str) -> list[dict[str, str]]:
        text = (self.folder / name).read_text("utf-8")
        return list(csv.DictReader(io.StringIO(text, newline="")))
