"""The command line, run as a process of its own against the real service."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imgsvc import __version__
from tests import sample_images
from tests.conftest import StartService
from tests.origin import ROOT, Origin, Reply
from tests.service_process import Service, table
from tests.waiting import block_until

LOOPBACK = {"IMGSVC_FETCH__ALLOWED_NETWORKS": '["127.0.0.0/8"]', "IMGSVC_COMPRESS__WORKERS": "1"}


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    said: str


@dataclass(frozen=True)
class CommandLine:
    """A folder to stand in, and the `imgsvc` command."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("IMGSVC_")}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "imgsvc", *arguments],
            cwd=self.folder,
            env=clean | {"PYTHONPATH": str(ROOT)} | LOOPBACK | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, **environ: str) -> Done:
        process = self.start(*arguments, **environ)
        out, said = process.communicate(timeout=90)
        assert "Traceback" not in said, said
        return Done(process.returncode, out, said)

    def write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return name

    def rows(self, name: str) -> list[dict[str, str]]:
        text = (self.folder / name).read_text("utf-8")
        return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[CommandLine]:
    folder = tmp_path / "shell"
    folder.mkdir()
    shell = CommandLine(folder)
    yield shell
    for process in shell.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def products(origin: Origin, numbers: range) -> bytes:
    return table([n, f"Product {n}", origin.photo(n)] for n in numbers)


# --- help and mistakes -----------------------------------------------------------------------------


def test_help_and_version(shell: CommandLine) -> None:
    assert shell.run("--version") == Done(0, f"imgsvc {__version__}\n", "")
    shown = shell.run("--help")
    assert shown.code == 0
    assert "imgsvc process products.csv -o out.csv" in shown.out
    for command in ("serve", "process", "submit", "status", "backup"):
        shown = shell.run(command, "--help")
        assert (shown.code, shown.said) == (0, "")
        assert re.search(rf"Examples:\s+imgsvc {command} ", shown.out)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["serve", "--port", "70000"], 2, "--port: server.port"),
        (["serve", "--config", "nothing.toml"], 2, "nothing.toml"),
        (["serve", "--prot", "1"], 2, "--prot"),
        (["process", "nothing.csv", "-o", "out.csv"], 2, "nothing.csv"),
        (["process", "--quality", "0", "here", "-o", "out.csv"], 2, "50%"),
        (["status", "x", "--server", "http://127.0.0.1:9"], 1, "cannot reach"),
        (["status", "x", "--server", "shop.example"], 2, "--server"),
        (["status", "x", "--server", "http://127.0.0.1:99999"], 2, "--server"),
        (["status", "x", "--server", "http://[::1"], 2, "--server"),
        (["status", "x", "--server", "http://"], 2, "--server"),
        (["status", "x", "--server", "http://h/?q"], 2, "--server"),
        (["status", "x", "--api-key-file", "latin"], 2, "--api-key-file"),
        (["status", "x", "--api-key-file", "lines"], 2, "--api-key-file"),
        (["submit", "here", "--server", "http://127.0.0.1:9"], 1, "IMGSVC_SERVER"),
        (["submit", "here", "-o", "here/out.csv", "--server", "http://127.0.0.1:9"], 1, "here"),
        (["process", "here", "-o", "here/out.csv", "--images", "i"], 1, "here"),
        (["backup", "new"], 1, "--data-dir"),
    ],
)
def test_a_mistake_ends_in_words(
    shell: CommandLine, arguments: list[str], code: int, said: str
) -> None:
    shell.write("here", b"a,b\n")
    shell.write("latin", b"k\xe9y")
    shell.write("lines", b"one\ntwo")
    done = shell.run(*arguments)
    assert done.code == code
    assert said in done.said
    assert not done.out


# --- serve and config check ------------------------------------------------------------------------


def test_flags_win_over_the_environment_and_that_over_the_file(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service(
        storage={"data_dir": str(tmp_path / "file")},
        log={"level": "error"},
        environ={
            "IMGSVC_STORAGE__DATA_DIR": str(tmp_path / "environment"),
            "IMGSVC_LOG__LEVEL": "info",
        },
        arguments=("--data-dir", str(tmp_path / "flag")),
    )
    assert service.get("/health/live").status == 200
    made = {each.name for each in tmp_path.iterdir() if (each / "imgsvc.db").exists()}
    assert made == {"flag"}


def test_a_service_that_cannot_start_says_why(service: Service, shell: CommandLine) -> None:
    port = service.url.rpartition(":")[2]
    taken = shell.run("serve", "--port", port)
    assert taken.code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in taken.said
    assert "Unclosed" not in taken.said
    second = shell.run("serve", "--port", "0", "--data-dir", str(service.data_dir))
    assert second.code == 1
    assert str(service.data_dir) in second.said


def test_config_check_tells_what_differs_and_no_secret(shell: CommandLine) -> None:
    shell.write("config.toml", b"[server]\nport = 9\napi_keys = ['hunter2']")
    done = shell.run("config", "check", IMGSVC_LOG__LEVEL="debug")
    assert done.code == 0
    lines = done.out.splitlines()
    assert {"server.port = 9", "server.api_keys = (set)", 'log.level = "debug"'} <= set(lines)
    assert "hunter2" not in done.out + done.said
    shell.write("config.toml", b"[server]\nprot = 9")
    done = shell.run("config", "check")
    assert done.code == 2
    assert "server.prot" in done.said


# --- submit and status -----------------------------------------------------------------------------


def test_submit_prints_the_id_and_status_tells_the_rest(
    service: Service, origin: Origin, shell: CommandLine
) -> None:
    shell.write("products.csv", products(origin, range(3)))
    submitted = shell.run("submit", "products.csv", "--server", service.url)
    assert (submitted.code, submitted.said) == (0, "")
    request_id = submitted.out.strip()
    waited = shell.run("status", request_id, "--wait", "-o", "out.csv", IMGSVC_SERVER=service.url)
    assert waited.code == 0, waited.said
    assert waited.out.startswith("completed: 3 images, 3 completed; ")
    assert [row["Status"] for row in shell.rows("out.csv")] == ["completed"] * 3
    as_json = shell.run("status", request_id, "--json", "--server", service.url)
    assert json.loads(as_json.out)["requestId"] == request_id
    unknown = shell.run("status", "../health/live", "--server", service.url)
    assert unknown.code == 1


def test_submit_waits_and_its_exit_code_tells_whether_all_came_out(
    service: Service, origin: Origin, shell: CommandLine
) -> None:
    urls = [origin.photo(1), origin.url("/missing.jpg")]
    shell.write("products.csv", table([[1, "a", urls]]))
    done = shell.run(
        *("submit", "products.csv", "--wait", "-o", "out.csv", "--server", service.url),
        *("--quality", "30%", "--format", "webp"),
    )
    assert done.code == 1
    assert "partial: 2 images, 1 completed, 1 failed" in done.said
    assert "1 × http_status" in done.said
    (row,) = shell.rows("out.csv")
    assert row["Output Image Urls"].endswith(".webp,")


def test_a_csv_with_faults_is_refused_with_each_named(service: Service, shell: CommandLine) -> None:
    shell.write("bad.csv", table([[1, "a", "http://h/1.jpg"], [2, "", "ftp://h/2.jpg"]]))
    done = shell.run("submit", "bad.csv", "--server", service.url)
    assert (done.code, done.out) == (1, "")
    assert "row 3, column Product Name: " in done.said
    assert "row 3, column Input Image Urls: " in done.said
    alone = shell.run("process", "bad.csv", "-o", "out.csv")
    assert alone.code == 1
    assert "row 3, column Product Name: " in alone.said
    assert not (shell.folder / "out.csv").exists()


def test_a_wait_outlives_a_restart_of_the_service(
    start_service: StartService, origin: Origin, shell: CommandLine
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = start_service(server={"port": port})
    held = origin.script("/held.jpg", Reply(photo="/photo/9.jpg", gate="g"))
    request_id = service.upload(table([[1, "held", held]]))
    waiting = shell.start("status", request_id, "--wait", "--server", service.url)
    block_until(lambda: b"imgsvc_watchers 1.0" in service.get("/metrics").body, what="the wait")
    service.kill()
    service.restart()
    origin.open_gate("g")
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert out.startswith("completed: 1 image, ")


def test_an_api_key_comes_from_the_environment_or_a_file(
    start_service: StartService, shell: CommandLine
) -> None:
    service = start_service(server={"port": 0, "api_keys": ["key-1"]})
    shell.write("key", b"key-1\n")
    shell.write("products.csv", table([[1, "a", "http://127.0.0.1:9/1.jpg"]]))
    submit = ("submit", "products.csv", "--server", service.url)
    assert "IMGSVC_API_KEY" in shell.run(*submit).said
    assert shell.run(*submit, IMGSVC_API_KEY="key-2").code == 1
    assert shell.run(*submit, IMGSVC_API_KEY="key-1").code == 0
    proxied = service.url.replace("http://", "http://user:word@")
    behind = shell.run("submit", "products.csv", "--server", proxied, IMGSVC_API_KEY="key-1")
    assert behind.code == 0, "a proxy's own sign-in is beside the key"
    assert shell.run(*submit, "--api-key-file", "key").code == 0
    assert "key-1" not in service.log()


# --- process ---------------------------------------------------------------------------------------


def output_files(shell: CommandLine, name: str) -> list[list[Path]]:
    return [
        [shell.folder / url for url in row["Output Image Urls"].split(",") if url]
        for row in shell.rows(name)
    ]


def test_process_does_a_whole_file_quietly(origin: Origin, shell: CommandLine) -> None:
    shell.write("products.csv", products(origin, range(5)))
    assert shell.run("process", "products.csv", "-o", "out.csv") == Done(0, "", "")
    assert [row["Product Name"] for row in shell.rows("out.csv")] == [
        f"Product {n}" for n in range(5)
    ]
    for number, (file,) in enumerate(output_files(shell, "out.csv")):
        assert file.is_relative_to(shell.folder / "out.images")
        assert sample_images.is_picture(file.read_bytes(), number)
    assert shell.run("process", "products.csv", "-o", "out.csv") == Done(0, "", "")
    assert origin.hits() == 5


def test_process_keeps_columns_without_a_name_that_hold_anything(
    origin: Origin, shell: CommandLine
) -> None:
    header = ("", "", "Product Name", "Input Image Urls", "Size", "")
    rows = [["", "", "a", origin.photo(1), "S"], ["", "7", "b", origin.photo(2), "", "note"]]
    shell.write("products.csv", table(rows, header))
    assert shell.run("process", "products.csv", "-o", "out.csv") == Done(0, "", "")
    written = csv.reader((shell.folder / "out.csv").read_text("utf-8").splitlines())
    assert [row[7:] for row in written] == [["", "Size", ""], ["", "S", ""], ["7", "", "note"]]


def test_process_tries_failures_again_in_the_next_run(origin: Origin, shell: CommandLine) -> None:
    flaky = origin.script("/flaky.jpg", Reply(404), Reply(photo="/photo/7.jpg"))
    shell.write("products.csv", table([[1, "a", [origin.photo(1), flaky]]]))
    first = shell.run("process", "products.csv", "-o", "out.csv")
    assert first.code == 1
    assert "1 failed" in first.said
    assert shell.run("process", "products.csv", "-o", "out.csv").code == 0
    ((one, other),) = output_files(shell, "out.csv")
    assert sample_images.is_picture(one.read_bytes(), 1)
    assert sample_images.is_picture(other.read_bytes(), 7)
    assert origin.hits("/photo/1.jpg") == 1


def test_ctrl_c_before_the_command_has_begun_is_no_traceback(shell: CommandLine) -> None:
    shell.write("click.py", b"raise KeyboardInterrupt")
    done = shell.run("config", "check", PYTHONPATH=f"{shell.folder}{os.pathsep}{ROOT}")
    assert (done.code, done.said) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_process_goes_on_where_it_was_stopped(
    origin: Origin, shell: CommandLine, number: signal.Signals
) -> None:
    held = origin.script("/held.jpg", Reply(photo="/photo/9.jpg", gate="g"))
    rows = [*([n, "a", origin.photo(n)] for n in range(4)), [9, "held", held]]
    shell.write("products.csv", table(rows))
    process = shell.start("process", "products.csv", "-o", "out.csv")
    outputs = shell.folder / "out.images" / "outputs"
    wait_for_files(outputs, 4)
    origin.wait_for_hits("/held.jpg", 1)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert ("goes on from here" in said) == (number == signal.SIGINT)
    origin.open_gate("g")
    assert shell.run("process", "products.csv", "-o", "out.csv").code == 0
    assert len(output_files(shell, "out.csv")) == 5
    assert all(file.is_file() for (file,) in output_files(shell, "out.csv"))


def wait_for_files(folder: Path, count: int) -> None:
    block_until(lambda: sum(f.is_file() for f in folder.rglob("*.jpg")) >= count, "outputs", 60)


def test_process_takes_another_table_into_the_same_folder(
    origin: Origin, shell: CommandLine
) -> None:
    shell.write("products.csv", products(origin, range(2)))
    assert shell.run("process", "products.csv", "-o", "out.csv").code == 0
    shell.write("products.csv", products(origin, range(1, 3)))
    assert shell.run("process", "products.csv", "-o", "out.csv").code == 0
    files = [file for (file,) in output_files(shell, "out.csv")]
    assert all(file.is_file() for file in files)
    kept = set((shell.folder / "out.images").rglob("*.jpg"))
    assert kept == set(files)


def test_process_leaves_a_services_own_folder_alone(
    service: Service, origin: Origin, shell: CommandLine
) -> None:
    request_id = service.upload(products(origin, range(2)))
    before = service.finished(request_id)
    service.stop()
    shell.write("products.csv", products(origin, range(1)))
    refused = shell.run(
        "process", "products.csv", "-o", "out.csv", "--images", str(service.data_dir)
    )
    assert refused.code == 1
    assert str(service.data_dir) in refused.said
    service.restart()
    assert service.status(request_id)["progress"] == before["progress"]


# --- backup ----------------------------------------------------------------------------------------


def test_a_backup_of_a_running_service_is_a_whole_one(
    service: Service, origin: Origin, shell: CommandLine, start_service: StartService
) -> None:
    done_id = service.upload(products(origin, range(3)))
    before = service.finished(done_id)
    held = origin.script("/held.jpg", Reply(photo="/photo/9.jpg", gate="g"))
    open_id = service.upload(table([[1, "held", held]]))
    origin.wait_for_hits("/held.jpg", 1)
    backup = shell.run("backup", "copy", "--data-dir", str(service.data_dir))
    assert backup.code == 0, backup.said
    assert "3 images" in backup.said
    again = shell.run("backup", "copy", "--data-dir", str(service.data_dir))
    assert again.code == 1
    origin.open_gate("g")
    service.finished(open_id)

    restored = start_service(storage={"data_dir": str(shell.folder / "copy")})
    after = restored.status(done_id)
    assert after["progress"] == before["progress"]
    for image in (each for product in after["products"] for each in product["images"]):
        assert len(restored.get(image["outputUrl"]).body) == image["outputBytes"]
    assert restored.finished(open_id)["status"] == "completed"


@pytest.mark.parametrize("database", [b"", b"not a database, however long it is" * 200])
def test_a_backup_that_fails_says_why_and_leaves_nothing(
    shell: CommandLine, database: bytes
) -> None:
    (shell.folder / "data").mkdir()
    shell.write("data/imgsvc.db", database)
    done = shell.run("backup", "copy")
    assert done.code == 1
    assert "cannot copy the database" in done.said
    assert [each.name for each in shell.folder.iterdir()] == ["data"]


# --- demo ------------------------------------------------------------------------------------------


def test_the_demo_shows_the_whole_way(shell: CommandLine, tmp_path: Path) -> None:
    done = shell.run("demo", "--keep", "kept", TMPDIR=str(tmp_path))
    assert done.code == 0, done.out + done.said
    assert done.said == ""
    assert (
        "S. No.,Product Name,Input Image Urls,Output Image Urls,Request Id,Status,Error" in done.out
    )
    assert "completed: 15 images, 15 completed" in done.out
    assert len(list((shell.folder / "kept" / "after").iterdir())) == 16
    assert not list(tmp_path.glob("imgsvc-demo-*"))
