"""The commands that list, change and download requests, as separate processes."""

from __future__ import annotations

import json
import subprocess
from zipfile import ZipFile

from tests.command_line import CommandLine, Result
from tests.origin import Origin, Reply
from tests.service_process import Service, table


def test_list_prints_newest_requests_first(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    server = {"IMGSVC_SERVER": service.url}
    ids = [
        service.upload(table([[1, "a", url]]), f"?name={name}")
        for name, url in (("Spring", origin.photo(1)), ("Autumn", origin.url("/no.jpg")))
    ]
    for request_id in ids:
        service.finished(request_id)
    lines = [line.split("\t") for line in cli.run("list", **server).out.splitlines()]
    assert [line[:4] for line in lines] == [
        [ids[1], "Autumn", "failed", "1/1"],
        [ids[0], "Spring", "completed", "1/1"],
    ]
    assert cli.run("list", "--status", "failed", **server).out.startswith(ids[1])
    assert cli.run("list", "--limit", "1", **server).out.count("\n") == 1
    (found,) = json.loads(cli.run("list", "--name", "spr", "--json", **server).out)
    assert found["requestId"] == ids[0]


def test_cancel_retry_and_delete(service: Service, origin: Origin, cli: CommandLine) -> None:
    server = {"IMGSVC_SERVER": service.url}
    held = origin.script("/held.jpg", Reply(photo="/photo/1.jpg", gate="g"))
    flaky = origin.script("/flaky.jpg", Reply(404), Reply(photo="/photo/7.jpg"))
    request_id = service.upload(table([[1, "a", [flaky, held]]]))
    origin.wait_for_hits("/held.jpg", 1)
    cancelled = cli.run("cancel", request_id, **server)
    assert (cancelled.code, cancelled.out) == (0, "")
    assert "cancelled: 2 images" in cancelled.err
    assert "finished" in cli.run("cancel", request_id, **server).err
    assert cli.run("retry", request_id, **server).code == 0
    assert service.finished(request_id)["progress"]["completed"] == 1
    assert cli.run("delete", request_id, **server) == Result(0, "", f"Deleted {request_id}.\n")
    assert service.get(f"/checkStatus/{request_id}").status == 404
    gone = cli.run("delete", request_id, **server)
    assert gone.code == 1


def test_download_saves_the_table_or_the_images(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    server = {"IMGSVC_SERVER": service.url}
    cli.write("shop.csv", f"Handle;Title;Image Src\r\na;A;{origin.photo(1)}\r\n".encode())
    request_id = cli.run("submit", "shop.csv", "--wait", **server).out.strip()
    saved = cli.run("download", request_id, "--layout", "input", **server)
    assert saved == Result(0, "", "Saved shop-compressed.csv.\n")
    text = (cli.folder / "shop-compressed.csv").read_text("utf-8")
    assert text.startswith("Handle;Title;Image Src")
    assert cli.run("download", request_id, "--images", **server).code == 0
    with ZipFile(cli.folder / "shop-images.zip") as images:
        assert len(images.namelist()) == 1
    assert cli.run("download", request_id, "-o", "new/out.xlsx", **server).code == 0
    assert (cli.folder / "new" / "out.xlsx").read_bytes().startswith(b"PK")
    printed = cli.run("download", request_id, "--layout", "input", "-o", "-", **server)
    assert printed == Result(0, text, "")
    refused = cli.run("status", request_id, "-o", "-", **server)
    assert refused.code == 2
    assert "only `download` writes to standard output" in refused.err
    assert not (cli.folder / "-").exists()


def test_status_prints_a_page_of_the_products(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    server = {"IMGSVC_SERVER": service.url}
    rows = [[number, f"Product {number}", origin.photo(number)] for number in range(3)]
    request_id = service.upload(table(rows))
    page = ("--json", "--products", "--offset", "1", "--limit", "1")
    found = json.loads(cli.run("status", request_id, *page, **server).out)
    assert [each["productName"] for each in found["products"]] == ["Product 1"]
    assert found["productsTotal"] == 3
    assert "products" not in json.loads(cli.run("status", request_id, "--json", **server).out)


def test_submit_reads_standard_input(service: Service, origin: Origin, cli: CommandLine) -> None:
    data = table([[1, "Lamp", origin.photo(1)]])
    process = cli.start(
        *("submit", "-", "--name", "piped.csv", "--wait"),
        stdin=subprocess.PIPE,
        IMGSVC_SERVER=service.url,
    )
    out, err = process.communicate(data.decode(), timeout=60)
    assert process.returncode == 0, err
    status = service.status(out.strip())
    assert (status["name"], status["status"]) == ("piped.csv", "completed")


def test_ctrl_c_while_waiting_says_that_the_request_continues(
    service: Service, origin: Origin, cli: CommandLine
) -> None:
    held = origin.script("/held.jpg", Reply(photo="/photo/1.jpg", gate="g"))
    cli.write("products.csv", table([[1, "a", held]]))
    process = cli.start("submit", "products.csv", "--wait", IMGSVC_SERVER=service.url)
    origin.wait_for_hits("/held.jpg", 1)
    process.send_signal(2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"The request continues. To wait again: imgsvc status {out.strip()} --wait" in err
    assert "Traceback" not in err
    origin.open_gate("g")
    assert service.finished(out.strip())["status"] == "completed"
