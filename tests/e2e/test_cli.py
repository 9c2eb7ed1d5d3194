"""The command line as a separate process, against a real service."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from imgsvc import __version__
from imgsvc.cli import cli as imgsvc_cli
from imgsvc.images import native
from tests import sample_images
from tests.command_line import CommandLine, Result
from tests.conftest import StartService
from tests.origin import ROOT, Origin, Reply
from tests.service_process import Service, table
from tests.waiting import block_until


def products(origin: Origin, numbers: range) -> bytes:
    return table([n, f"Product {n}", origin.photo(n)] for n in numbers)


# --- help and usage errors --------------------------------------------------------------------------


def test_help_has_an_example_for_each_command(cli: CommandLine) -> None:
    assert cli.run("--version") == Result(0, f"imgsvc {__version__}\n", "")
    result = cli.run("--help")
    assert result.code == 0
    commands = set(imgsvc_cli.commands)
    assert "imgsvc process products.csv " in result.out
    assert set(re.findall(r"^  ([a-z]+)  ", result.out, re.MULTILINE)) == set(commands)
    for command in commands - {"cluster", "config", "demo"}:
        result = cli.run(command, "--help")
        assert (result.code, result.err) == (0, "")
        assert re.search(rf"Examples:\s+imgsvc {command}\b", result.out)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["serve", "--port", "70000"], 2, "--port: server.port"),
        (["serve", "--config", "nothing.toml"], 2, "nothing.toml"),
        (["serve", "--prot", "1"], 2, "--prot"),
        (["process", "nothing.csv", "-o", "out.csv"], 2, "nothing.csv"),
        (["process", "--quality", "0", "here", "-o", "out.csv"], 2, "50%"),
        (["process", "--max-width", "65536", "here", "-o", "out.csv"], 2, "65535"),
        (["status", "x", "--server", "http://127.0.0.1:9"], 1, "Cannot reach"),
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
def test_invalid_usage_prints_a_message_without_traceback(
    cli: CommandLine, arguments: list[str], code: int, part: str
) -> None:
    cli.write("here", b"a,b\n")
    cli.write("latin", b"k\xe9y")
    cli.write("lines", b"one\ntwo")
    result = cli.run(*arguments)
    assert result.code == code
    assert part in result.err
    assert not result.out


# --- serve and config check ------------------------------------------------------------------------


def test_serve_flags_override_environment_and_environment_overrides_file(
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
    data_dirs = {each.name for each in tmp_path.iterdir() if (each / "imgsvc.db").exists()}
    assert data_dirs == {"flag"}


def test_serve_reports_why_it_cannot_start(service: Service, cli: CommandLine) -> None:
    port = service.url.rpartition(":")[2]
    port_in_use = cli.run("serve", "--port", port)
    assert port_in_use.code == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in port_in_use.err
    assert "Unclosed" not in port_in_use.err
    folder_in_use = cli.run("serve", "--port", "0", "--data-dir", str(service.data_dir))
    assert folder_in_use.code == 1
    assert str(service.data_dir) in folder_in_use.err


def test_config_check_prints_changed_settings_without_secrets(cli: CommandLine) -> None:
    settings = (
        b"[server]\nport = 9\napi_keys = ['hunter2-hunter2-hunter2']\n"
        b"[[server.keys]]\nname = 'shop'\nrole = 'submit'\nkey = 'hunter2-of-the-shop'\n"
    )
    cli.write("config.toml", settings)
    result = cli.run("config", "check", IMGSVC_LOG__LEVEL="debug")
    assert result.code == 0
    lines = result.out.splitlines()
    assert {"server.port = 9", "server.api_keys = (set)", 'log.level = "debug"'} <= set(lines)
    assert "server.keys = shop (submit)" in lines
    assert "hunter2" not in result.out + result.err
    cli.write("config.toml", b"[server]\nprot = 9")
    result = cli.run("config", "check")
    assert result.code == 2
    assert "server.prot" in result.err


def test_config_check_says_what_compresses_jpegs(cli: CommandLine) -> None:
    assert f"JPEGs are compressed by {native.describe()}.\n" in cli.run("config", "check").err
    hook = "import sys; sys.modules['imgsvc.images.native._requantise'] = None\n"
    cli.write("sitecustomize.py", hook.encode())
    path = f"{cli.folder}{os.pathsep}{ROOT}"
    without_module = cli.run("config", "check", PYTHONPATH=path)
    assert "by Pillow (slower: the native module is not built).\n" in without_module.err


def test_metrics_say_whether_native_module_is_used(service: Service) -> None:
    expected = f"imgsvc_native_module {float(native.AVAILABLE)}\n"
    assert expected.encode() in service.get("/metrics").body


def test_config_check_warns_about_old_names_of_keys(cli: CommandLine) -> None:
    cli.write("config.toml", b"[fetch]\ntotal_seconds = 9")
    result = cli.run("config", "check", IMGSVC_WEBHOOK__PAUSES_SECONDS="[1]")
    assert result.code == 0
    lines = set(result.out.splitlines())
    assert {"fetch.timeout_seconds = 9.0", "webhook.retry_delays_seconds = [1.0]"} <= lines
    assert (
        "fetch.total_seconds is now fetch.timeout_seconds; the old name still works" in result.err
    )
    assert "webhook.pauses_seconds is now webhook.retry_delays_seconds; " in result.err
    result = cli.run("config", "check", IMGSVC_FETCH__TIMEOUT_SECONDS="9")
    assert (result.code, result.out) == (2, "")
    assert "fetch.total_seconds is the old name of fetch.timeout_seconds" in result.err


def test_process_and_backup_warn_about_old_names_of_keys(cli: CommandLine) -> None:
    cli.write("bad.csv", b"a,b\n")
    warning = "warning: compress.seconds is now compress.timeout_seconds; the old name still works"
    for command in (("process", "bad.csv", "-o", "out.csv"), ("backup", "copy")):
        assert warning in cli.run(*command, IMGSVC_COMPRESS__SECONDS="9").err


def test_serve_logs_a_warning_about_old_names_of_keys(start_service: StartService) -> None:
    service = start_service(fetch={"allowed_networks": [], "idle_seconds": 9})
    warnings = [each["message"] for each in service.records() if each["level"] == "warning"]
    assert warnings == [
        "fetch.idle_seconds is now fetch.read_timeout_seconds; the old name still works"
    ]


def test_serve_does_not_start_if_a_key_is_set_under_both_names(cli: CommandLine) -> None:
    cli.write("config.toml", b"[fetch]\ntotal_seconds = 9\ntimeout_seconds = 9")
    result = cli.run("serve", "--port", "0")
    assert result.code == 2
    assert "fetch.total_seconds is the old name of fetch.timeout_seconds" in result.err
    assert not (cli.folder / "data").exists()


def test_serve_on_a_terminal_prints_the_address_and_how_to_stop(cli: CommandLine) -> None:
    terminal, process_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "imgsvc", "serve", "--port", "0"],
        cwd=cli.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stderr=process_end,
    )
    os.close(process_end)
    printed = ""
    while "Ctrl-C stops the service." not in printed:
        printed += os.read(terminal, 2**16).decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    os.close(terminal)
    assert re.search(r"Open http://127\.0\.0\.1:[0-9]+ in a browser", printed)


# --- submit and status -----------------------------------------------------------------------------


def test_submit_prints_the_request_id_and_status_reports_the_request(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    cli.write("products.csv", products(origin, range(3)))
    submitted = cli.run("submit", "products.csv", "--server", service.url)
    assert (submitted.code, submitted.err) == (0, "")
    request_id = submitted.out.strip()
    waited = cli.run("status", request_id, "--wait", "-o", "out.csv", IMGSVC_SERVER=service.url)
    assert waited.code == 0, waited.err
    assert waited.out.startswith("completed: 3 images, 3 completed; ")
    assert [row["Status"] for row in cli.rows("out.csv")] == ["completed"] * 3
    as_json = cli.run("status", request_id, "--json", "--server", service.url)
    assert json.loads(as_json.out)["requestId"] == request_id
    unknown = cli.run("status", "../health/live", "--server", service.url)
    assert unknown.code == 1


def test_repeat_prints_the_id_of_a_new_request_and_saves_its_csv(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    cli.write("products.csv", products(origin, range(2)))
    submitted = cli.run("submit", "products.csv", "--server", service.url)
    repeated = cli.run(
        "repeat",
        submitted.out.strip(),
        "--name",
        "Week 2",
        "-o",
        "out.csv",
        IMGSVC_SERVER=service.url,
    )
    assert repeated.code == 0, repeated.err
    request_id = repeated.out.strip()
    assert request_id != submitted.out.strip()
    assert [row["Request Id"] for row in cli.rows("out.csv")] == [request_id] * 2
    unknown = cli.run("repeat", "../health/live", "--server", service.url)
    assert unknown.code == 1


def test_submit_with_wait_exits_1_if_an_image_failed(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    urls = [origin.photo(1), origin.url("/missing.jpg")]
    cli.write("products.csv", table([[1, "a", urls]]))
    result = cli.run(
        *("submit", "products.csv", "--wait", "-o", "out.csv", "--server", service.url),
        *("--quality", "30%", "--format", "webp"),
        *("--max-width", "100", "--max-height", "90", "--effort", "small"),
    )
    assert result.code == 1
    assert "partial: 2 images, 1 completed, 1 failed" in result.err
    assert "1 × http_status" in result.err
    (row,) = cli.rows("out.csv")
    assert row["Output Image Urls"].endswith(".webp,")
    status = json.loads(cli.run("status", row["Request Id"], "--json", "--server", service.url).out)
    assert status["settings"] == {
        "quality": "30%",
        "format": "webp",
        "maxWidth": 100,
        "maxHeight": 90,
        "effort": "small",
    }


def test_status_prints_what_images_wait_for(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    busy = origin.script("/busy.jpg", Reply(503, {"Retry-After": "250"}))
    request_id = service.upload(table([[1, "busy", busy]]))
    block_until(lambda: service.status(request_id)["waiting"], what="the waiting image")
    result = cli.run("status", request_id, "--server", service.url)
    assert re.search(
        r"^127\.0\.0\.1:\d+: 503 Service Unavailable \(1 image\)\. Next try in 2\d\d s\.$",
        result.out,
        re.MULTILINE,
    )


def test_invalid_csv_is_rejected_with_every_error_listed(
    service: Service, cli: CommandLine
) -> None:
    cli.write("bad.csv", table([[1, "a", "http://h/1.jpg"], [2, "", "ftp://h/2.jpg"]]))
    result = cli.run("submit", "bad.csv", "--server", service.url)
    assert (result.code, result.out) == (1, "")
    assert "row 3, column Product Name: " in result.err
    assert "row 3, column Input Image Urls: " in result.err
    offline = cli.run("process", "bad.csv", "-o", "out.csv")
    assert offline.code == 1
    assert "row 3, column Product Name: " in offline.err
    assert not (cli.folder / "out.csv").exists()


def test_status_with_wait_survives_a_restart_of_the_service(
    start_service: StartService, origin: Origin, cli: CommandLine
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = start_service(server={"port": port})
    held = origin.script("/held.jpg", Reply(photo="/photo/9.jpg", gate="g"))
    request_id = service.upload(table([[1, "held", held]]))
    waiting = cli.start("status", request_id, "--wait", "--server", service.url)
    block_until(lambda: b"imgsvc_watchers 1.0" in service.get("/metrics").body, what="the wait")
    service.kill()
    service.restart()
    origin.open_gate("g")
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert out.startswith("completed: 1 image, ")


def test_api_key_is_read_from_environment_or_file(
    start_service: StartService, cli: CommandLine
) -> None:
    service = start_service(server={"port": 0, "api_keys": ["key-1-of-the-tests"]})
    cli.write("key", b"key-1-of-the-tests\n")
    cli.write("products.csv", table([[1, "a", "http://127.0.0.1:9/1.jpg"]]))
    submit = ("submit", "products.csv", "--server", service.url)
    assert "IMGSVC_API_KEY" in cli.run(*submit).err
    assert cli.run(*submit, IMGSVC_API_KEY="key-2-of-the-tests").code == 1
    assert cli.run(*submit, IMGSVC_API_KEY="key-1-of-the-tests").code == 0
    proxied = service.url.replace("http://", "http://user:word@")
    behind_proxy = cli.run(
        "submit", "products.csv", "--server", proxied, IMGSVC_API_KEY="key-1-of-the-tests"
    )
    assert behind_proxy.code == 0, "the key must not use the header of the proxy's credentials"
    assert cli.run(*submit, "--api-key-file", "key").code == 0
    assert "key-1-of-the-tests" not in service.log()


# --- process ---------------------------------------------------------------------------------------


def output_files(cli: CommandLine, name: str) -> list[list[Path]]:
    return [
        [cli.folder / url for url in row["Output Image Urls"].split(",") if url]
        for row in cli.rows(name)
    ]


def test_process_compresses_a_file_without_output_if_all_succeed(
    origin: Origin, cli: CommandLine
) -> None:
    cli.write("products.csv", products(origin, range(5)))
    assert cli.run("process", "products.csv", "-o", "out.csv") == Result(0, "", "")
    assert [row["Product Name"] for row in cli.rows("out.csv")] == [
        f"Product {n}" for n in range(5)
    ]
    for number, (file,) in enumerate(output_files(cli, "out.csv")):
        assert file.is_relative_to(cli.folder / "out.images")
        assert sample_images.is_photograph(file.read_bytes(), number)
    assert sorted(each.name for each in cli.folder.iterdir()) == [
        "out.csv",
        "out.images",
        "products.csv",
    ]
    assert sorted(each.name for each in (cli.folder / "out.images").iterdir()) == [
        f"product-{n}-1.jpg" for n in range(5)
    ]


def test_process_names_images_after_products_and_rows(origin: Origin, cli: CommandLine) -> None:
    """The CSV is beside the file. Equal names of different images get the row; equal images share."""
    rows = [
        [1, "Red Pumps", [origin.photo(1), origin.photo(2)]],
        [2, "Red  pumps!", origin.photo(3)],
    ]
    cli.write("shoes.csv", table([*rows, [3, "Red Pumps", origin.photo(1)]]))
    result = cli.run("process", "shoes.csv")
    assert result == Result(0, "", "")
    assert output_files(cli, "shoes-compressed.csv") == [
        [cli.folder / "shoes-compressed.images" / name for name in names]
        for names in (
            ["red-pumps-1.jpg", "red-pumps-2.jpg"],
            ["red-pumps-1-row-3.jpg"],
            ["red-pumps-1.jpg"],
        )
    ]
    for number, name in enumerate(("red-pumps-1", "red-pumps-2", "red-pumps-1-row-3"), 1):
        data = (cli.folder / "shoes-compressed.images" / f"{name}.jpg").read_bytes()
        assert sample_images.is_photograph(data, number)


def test_process_into_a_given_folder_removes_no_file(origin: Origin, cli: CommandLine) -> None:
    folder = cli.folder / "mine"
    folder.mkdir()
    (folder / "mine.jpg").write_bytes(b"mine")
    cli.write("products.csv", products(origin, range(1)))
    assert cli.run("process", "products.csv", "--images", "mine").code == 0
    assert sorted(each.name for each in folder.iterdir()) == ["mine.jpg", "product-0-1.jpg"]


def test_process_takes_over_the_folder_of_version_1(origin: Origin, cli: CommandLine) -> None:
    """It stored its working data in the image folder."""
    flaky = origin.script("/flaky.jpg", Reply(404), Reply(photo="/photo/7.jpg"))
    cli.write("products.csv", table([[1, "a", [origin.photo(1), flaky]]]))
    assert cli.run("process", "products.csv", "-o", "out.csv").code == 1
    shutil.rmtree(cli.folder / "out.images")
    (cli.folder / ".out.csv.imgsvc").rename(cli.folder / "out.images")
    (cli.folder / "out.images" / ".process").touch()
    assert cli.run("process", "products.csv", "-o", "out.csv").code == 0
    assert [each.name for each in sorted((cli.folder / "out.images").iterdir())] == [
        "a-1.jpg",
        "a-2.jpg",
    ]
    assert origin.hits("/photo/1.jpg") == 1


def test_process_shrinks_images_to_the_given_size(origin: Origin, cli: CommandLine) -> None:
    cli.write("products.csv", products(origin, range(2)))
    sizes = set()
    for options in (("--max-width", "40", "--max-height", "3000"), ()):
        assert cli.run("process", "products.csv", "-o", "out.csv", *options).code == 0
        for (file,) in output_files(cli, "out.csv"):
            with Image.open(file) as image:
                sizes.add(image.size)
    assert sizes == {(40, 30), (320, 240)}


def test_process_keeps_unnamed_columns_that_have_values(origin: Origin, cli: CommandLine) -> None:
    header = ("", "", "Product Name", "Input Image Urls", "Size", "")
    rows = [["", "", "a", origin.photo(1), "S"], ["", "7", "b", origin.photo(2), "", "note"]]
    cli.write("products.csv", table(rows, header))
    assert cli.run("process", "products.csv", "-o", "out.csv") == Result(0, "", "")
    written = csv.reader((cli.folder / "out.csv").read_text("utf-8").splitlines())
    assert [row[7:] for row in written] == [["", "Size", ""], ["", "S", ""], ["7", "", "note"]]


def test_process_retries_failed_images_in_the_next_run(origin: Origin, cli: CommandLine) -> None:
    flaky = origin.script("/flaky.jpg", Reply(404), Reply(photo="/photo/7.jpg"))
    cli.write("products.csv", table([[1, "a", [origin.photo(1), flaky]]]))
    first = cli.run("process", "products.csv", "-o", "out.csv")
    assert first.code == 1
    assert "1 failed" in first.err
    assert cli.run("process", "products.csv", "-o", "out.csv").code == 0
    ((one, other),) = output_files(cli, "out.csv")
    assert sample_images.is_photograph(one.read_bytes(), 1)
    assert sample_images.is_photograph(other.read_bytes(), 7)
    assert origin.hits("/photo/1.jpg") == 1


def test_process_returns_the_layout_of_the_file(origin: Origin, cli: CommandLine) -> None:
    bad = origin.url("/bad.jpg")
    origin.script("/bad.jpg", Reply(404))
    shop = (
        "Titel;Bild A;Bild B;Preis\r\n"
        f"Grün;{origin.photo(1)};{bad};1,50\r\n"
        f";{origin.photo(2)};;2\r\n"
        "Falsch;ftp://x.example/1.jpg;;3\r\n"
    )
    file = cli.write("shop.csv", shop.encode("cp1252"))
    options = ["--name-column", "Titel", "--image-column", "Bild A", "--image-column", "Bild B"]
    refused = cli.run("process", file, "-o", "out.csv", *options)
    assert (refused.code, refused.out) == (1, "")
    assert "row 4, column Bild A: " in refused.err
    options += ["--encoding", "cp1252", "--on-invalid", "skip", "--layout", "input"]
    result = cli.run("process", file, "-o", "out.csv", *options, "--failed", "empty")
    assert result.code == 1, result.err
    assert "; 1 row skipped" in result.err
    header, first, second, skipped = (cli.folder / "out.csv").read_text("utf-8").splitlines()
    assert (header, skipped) == (shop.splitlines()[0], shop.splitlines()[3])
    assert re.fullmatch(r"Grün;out\.images/[^;,]+\.jpg;;1,50", first)
    assert re.fullmatch(r";out\.images/[^;,]+\.jpg;;2", second)
    # The same file with other options of the output is not processed again.
    hits = origin.hits("/bad.jpg")
    again = cli.run("process", file, "-o", "out.csv", *options, "--output-encoding", "input")
    assert again.code == 1
    expected = first.replace(";;", f";{bad};").encode("cp1252")
    assert (cli.folder / "out.csv").read_bytes().splitlines()[1] == expected
    assert origin.hits("/bad.jpg") == hits + 1


def test_submit_and_status_have_the_options_of_the_api(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    shop = f"Handle;Title;Image Src\r\na;A;{origin.photo(1)}\r\nb;B;nonsense://x/1.jpg\r\n"
    file = cli.write("shop.csv", shop.encode())
    server = {"IMGSVC_SERVER": service.url}
    options = ["--layout", "input", "--excel"]
    result = cli.run("submit", file, "--on-invalid", "skip", "-o", "out.csv", *options, **server)
    assert result.code == 0, result.err
    assert "Skipped rows: 1" in result.err
    assert "row 3, column Image Src: " in result.err
    lines = (cli.folder / "out.csv").read_bytes().splitlines()
    assert lines[0] == b"\xef\xbb\xbfHandle;Title;Image Src"
    assert lines[1].startswith(f"a;A;{service.url}/images/".encode())
    request_id = result.out.strip()
    assert service.status(request_id)["name"] == "shop.csv"
    found = cli.run("status", request_id, "--only", "failed", "-o", "failed.csv", **server)
    assert found.code == 0, found.err
    failed = (cli.folder / "failed.csv").read_text("utf-8").splitlines()
    assert failed == ["Handle,Title,Image Src", "b,B,nonsense://x/1.jpg"]
    wrong = cli.run("submit", file, "--encoding", "utf-16", **server)
    assert wrong.code == 2
    assert "superset of ASCII" in wrong.err


def test_submit_dry_run_prints_how_the_file_is_read(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    url = origin.photo(1)
    file = cli.write("shop.csv", f"Handle;Title;Image Src;Vendor\r\na;A;{url};V\r\n".encode())
    result = cli.run("submit", file, "--dry-run", "-o", "out.csv", "--server", service.url)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "1 product, 1 image",
        "Layout: shopify (CSV with semicolons, utf-8)",
        "Images: Image Src",
        "Product names: Title",
        "Products grouped by: Handle",
        "Kept unchanged: Vendor",
        "Row 2: A",
        f"  {url}",
    ]
    assert service.get("/listRequests").json()["requests"] == []
    assert not (cli.folder / "out.csv").exists()


def test_ctrl_c_during_import_prints_no_traceback(cli: CommandLine) -> None:
    cli.write("click.py", b"raise KeyboardInterrupt")
    result = cli.run("config", "check", PYTHONPATH=f"{cli.folder}{os.pathsep}{ROOT}")
    assert (result.code, result.err) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_process_continues_after_it_was_stopped(
    origin: Origin, cli: CommandLine, number: signal.Signals
) -> None:
    held = origin.script("/held.jpg", Reply(photo="/photo/9.jpg", gate="g"))
    rows = [*([n, "a", origin.photo(n)] for n in range(4)), [9, "held", held]]
    cli.write("products.csv", table(rows))
    process = cli.start("process", "products.csv", "-o", "out.csv")
    outputs = cli.folder / ".out.csv.imgsvc" / "outputs"
    wait_for_files(outputs, 4)
    origin.wait_for_hits("/held.jpg", 1)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert ("Run the same command to continue" in err) == (number == signal.SIGINT)
    origin.open_gate("g")
    assert cli.run("process", "products.csv", "-o", "out.csv").code == 0
    assert len(output_files(cli, "out.csv")) == 5
    assert all(file.is_file() for (file,) in output_files(cli, "out.csv"))


def wait_for_files(folder: Path, count: int) -> None:
    block_until(lambda: sum(f.is_file() for f in folder.rglob("*.jpg")) >= count, "outputs", 60)


def test_process_of_another_file_replaces_images_of_the_first(
    origin: Origin, cli: CommandLine
) -> None:
    cli.write("products.csv", products(origin, range(2)))
    assert cli.run("process", "products.csv", "-o", "out.csv").code == 0
    cli.write("products.csv", products(origin, range(1, 3)))
    assert cli.run("process", "products.csv", "-o", "out.csv").code == 0
    files = [file for (file,) in output_files(cli, "out.csv")]
    assert all(file.is_file() for file in files)
    stored = set((cli.folder / "out.images").rglob("*.jpg"))
    assert stored == set(files)


def test_process_does_not_change_the_data_folder_of_a_service(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    request_id = service.upload(products(origin, range(2)))
    before = service.finished(request_id)
    service.stop()
    cli.write("products.csv", products(origin, range(1)))
    rejected = cli.run(
        "process", "products.csv", "-o", "out.csv", "--images", str(service.data_dir)
    )
    assert rejected.code == 1
    assert str(service.data_dir) in rejected.err
    service.restart()
    assert service.status(request_id)["progress"] == before["progress"]


# --- backup ----------------------------------------------------------------------------------------


def test_backup_of_a_running_service_can_be_restored(
    service: Service, origin: Origin, cli: CommandLine, start_service: StartService
) -> None:
    done_id = service.upload(products(origin, range(3)))
    before = service.finished(done_id)
    held = origin.script("/held.jpg", Reply(photo="/photo/9.jpg", gate="g"))
    open_id = service.upload(table([[1, "held", held]]))
    origin.wait_for_hits("/held.jpg", 1)
    backup = cli.run("backup", "copy", "--data-dir", str(service.data_dir))
    assert backup.code == 0, backup.err
    assert "3 images" in backup.err
    second = cli.run("backup", "copy", "--data-dir", str(service.data_dir))
    assert second.code == 1
    origin.open_gate("g")
    service.finished(open_id)

    restored = start_service(storage={"data_dir": str(cli.folder / "copy")})
    after = restored.status(done_id)
    assert after["progress"] == before["progress"]
    for image in (each for product in after["products"] for each in product["images"]):
        assert len(restored.get(image["outputUrl"]).body) == image["outputBytes"]
    assert restored.finished(open_id)["status"] == "completed"


@pytest.mark.parametrize("database", [b"", b"this file is not a database, it is text" * 200])
def test_failed_backup_reports_why_and_leaves_no_files(cli: CommandLine, database: bytes) -> None:
    (cli.folder / "data").mkdir()
    cli.write("data/imgsvc.db", database)
    result = cli.run("backup", "copy")
    assert result.code == 1
    assert "Cannot copy the database" in result.err
    assert [each.name for each in cli.folder.iterdir()] == ["data"]


# --- demo ------------------------------------------------------------------------------------------


def test_demo_compresses_all_images_and_saves_them(cli: CommandLine, tmp_path: Path) -> None:
    result = cli.run("demo", "--keep", "saved", TMPDIR=str(tmp_path))
    assert result.code == 0, result.out + result.err
    assert result.err == ""
    assert (
        "S. No.,Product Name,Input Image Urls,Output Image Urls,Request Id,Status,Error"
        in result.out
    )
    assert "completed: 15 images, 15 completed" in result.out
    assert len(list((cli.folder / "saved" / "after").iterdir())) == 16
    assert not list(tmp_path.glob("imgsvc-demo-*"))
