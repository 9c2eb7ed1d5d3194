"""Creates the data folder that the upgrade tests open, and records the responses of this release.

Run it with the release whose data folder is needed. For 1.0.0 it writes tests/upgrade/1.0.0/:

    python -m tests.upgrade.make_data_folder

The folder is named after the release that runs. The real service creates nearly all of it, and is then
killed in the middle of its work. `_add_rare_states` adds states that a kill rarely leaves: a request
whose cancellation was recorded but not started, and files that no image uses yet. It depends on the
schema, and may have to change with it.

The folder has these requests:

    completed   several formats, duplicate URLs, equal images with two URLs, extra columns
    partial     some images return 404; one has the same source as an image of `completed`
    failed      every image fails, each with another error
    cancelled   one image was completed before the cancellation
    options     quality=50, format=webp; its webhook will be sent again
    delivered   its webhook was delivered
    refused     its webhook was refused permanently
    keyed       uploaded with an Idempotency-Key
    retried     its failed image was retried, and completed
    half_done   images that are completed, in progress, pending, and waiting for a retry
    cancelling  its cancellation was requested, but not yet carried out

It also has one request that was being uploaded, one that was being deleted, and one that was deleted
except for its file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from imgsvc import __version__
from tests.origin import Origin, Reply
from tests.service_process import Service, table
from tests.upgrade.data_folder import (
    DATABASE,
    EXPECTED,
    FOLDER,
    PUBLIC_URL,
    contains_text,
    files_in,
    settings_for,
)
from tests.waiting import block_until

SHOP = "http://198.51.100.1"
OTHER_SHOP = "http://198.51.100.2"
SLOW_SHOP = "http://198.51.100.3"
RECEIVER = "http://203.0.113.1"
SIZE = "?w=48&h=32"
STAGED_NAME = "Being uploaded"
DELETED_NAME = "Being deleted"
KEY = "upgrade-test-1"
YEAR = 365 * 86_400

Json = dict[str, Any]


def photo(number: int, extension: str = "jpg", shop: str = SHOP) -> str:
    """Return the URL of a small photo that the origin serves by default."""
    return f"{shop}/photo/{number}.{extension}{SIZE}"


def source(number: int, extension: str = "jpg") -> str:
    """Return the name of the same photo in `Reply` and `sources`."""
    return f"/photo/{number}.{extension}{SIZE}"


def completed_table() -> bytes:
    one, two, three = photo(1), photo(2, "png"), photo(3, "webp")
    lines = [
        'S. No.,Product Name,Input Image Urls,,Colour,"Größe, außen"',
        f'A-1,"Stuhl ""Emma"", grün","{one},{two},{one}",,"rot, blau",klein',
        f'A-2,日本の椅子,"{three};{photo(4, "gif")} {one}",,"two\nlines",',
        f'007,Tabouret à vis,"{SHOP}/copy-of-1.jpg,{photo(5, "bmp")}",,🪑,=1+1',
        f"A-4,Łóżko,{SHOP}/größe.png,,,-",
    ]
    return ("\r\n".join(lines) + "\r\n").encode()


class Maker:
    """A running service, its origin, and the expected responses for its data folder."""

    def __init__(self, service: Service, origin: Origin) -> None:
        self.service = service
        self.origin = origin
        self.request_ids: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        self.expected: Json = {}

    def upload(self, name: str, body: bytes, query: str = "", key: str | None = None) -> str:
        headers = {} if key is None else {"Idempotency-Key": key}
        response = self.service.post(f"/processImages{query}", body, headers)
        assert response.status == 201, response.body
        self.request_ids[name] = request_id = str(response.json()["requestId"])
        return request_id

    def finish(self, name: str, status: str, body: bytes, query: str = "") -> str:
        """Upload a table and wait until its request has finished, with that status."""
        request_id = self.upload(name, body, query)
        assert self.service.finished(request_id)["status"] == status
        return request_id

    def wait_for_webhook(self, name: str, status: str) -> None:
        def is_recorded() -> bool:
            webhook = self.service.status(self.request_ids[name])["webhook"]
            return bool(webhook["attempts"] == 1 and webhook["status"] == status)

        block_until(is_recorded, f"the webhook of {name}", 30)


def stored_at(output_url: str) -> Path:
    """Return the path of an output in the data folder, if its image is the first with this content."""
    name = output_url.rpartition("/")[2]
    return Path("outputs", name[:2], name)


def make_finished(maker: Maker) -> None:
    """Create the finished requests."""
    origin, service = maker.origin, maker.service
    origin.script(f"{SHOP}/copy-of-1.jpg", Reply(photo=source(1)))
    origin.script(f"{SHOP}/gr%C3%B6%C3%9Fe.png", Reply(photo=source(6, "png")))
    maker.finish("completed", "completed", completed_table())

    missing = f"{SHOP}/missing.jpg"
    rows = [("1", "Partly there", [photo(1), missing]), ("2", "Missing", [missing])]
    maker.finish("partial", "partial", table([*rows, ("3", "There", photo(7))]))
    maker.sources[missing] = source(8)

    origin.serve(f"{SHOP}/text.jpg", b"This is no image.", "text/plain")
    rows = [("1", "Text", [f"{SHOP}/text.jpg", f"{SHOP}/gone.jpg"])]
    maker.finish("failed", "failed", table([*rows, ("2", "Private", ["http://10.0.0.1/a.jpg"])]))

    held = f"{SHOP}/held.jpg"
    origin.script(held, Reply(gate="never", photo=source(10)))
    request_id = maker.upload("cancelled", table([("", "Half", [photo(9)]), ("", "Held", held)]))
    origin.wait_for_hits(held, 1)
    block_until(lambda: service.status(request_id)["progress"]["completed"] == 1)
    assert service.post(f"/cancelRequest/{request_id}").status == 200
    assert service.finished(request_id)["status"] == "cancelled"

    for name, reply in (("delivered", Reply(body=b"")), ("refused", Reply(410, body=b""))):
        url = f"{RECEIVER}/{name}"
        origin.script(url, reply)
        query = f"?webhookUrl={quote(url, safe='')}"
        maker.finish(name, "completed", table([("1", name, photo(11))]), query)
        maker.wait_for_webhook(name, "delivered" if name == "delivered" else "failed")

    keyed = table([("1", "With a key", [photo(1), photo(12, "webp")])])
    maker.upload("keyed", keyed, "?quality=60", KEY)
    service.finished(maker.request_ids["keyed"])
    maker.expected["replay"] = {
        "request": "keyed",
        "key": KEY,
        "query": "?quality=60",
        "body": keyed.decode(),
    }

    late = f"{SHOP}/late.jpg"
    origin.script(late, Reply(404, body=b""), Reply(photo=source(13)))
    request_id = maker.finish("retried", "failed", table([("1", "Late", late)]))
    assert service.post(f"/retryFailed/{request_id}").status == 202
    assert service.finished(request_id)["status"] == "completed"

    url = f"{RECEIVER}/pending"
    origin.script(url, Reply(503, body=b""))
    query = f"?quality=50&format=webp&webhookUrl={quote(url, safe='')}"
    maker.finish("options", "completed", table([("1", "WebP", [photo(1), photo(2, "png")])]), query)
    maker.wait_for_webhook("options", "pending")


def record_finished(maker: Maker) -> None:
    """Record the service's responses about the finished requests."""
    service = maker.service
    finished: Json = {}
    for name, request_id in maker.request_ids.items():
        csv = service.get(f"/checkStatus/{request_id}?format=csv")
        assert csv.status == 200
        finished[name] = {"csv": csv.body.decode(), "json": service.status(request_id)}
    maker.expected["finished"] = finished
    maker.expected["list"] = service.get("/listRequests").json()["requests"]


def outputs_of(service: Service, statuses: list[Json]) -> dict[str, str]:
    """Return the path of each output, and the SHA-256 of the service's response body for it."""
    found: dict[str, str] = {}
    for status in statuses:
        for product in status["products"]:
            for image in product["images"]:
                if image["outputUrl"] is not None:
                    path = image["outputUrl"].removeprefix(PUBLIC_URL)
                    response = service.get(path)
                    assert response.status == 200
                    found[path] = hashlib.sha256(response.body).hexdigest()
    return found


def make_half_done(maker: Maker) -> None:
    """Create a request with images in every state, and a request that will be cancelled."""
    origin, service = maker.origin, maker.service
    held = [f"{SHOP}/held-{n}.jpg" for n in range(5)]
    for number, url in enumerate(held, 30):
        origin.script(url, Reply(gate="never", photo=source(number)))
        maker.sources[url] = source(number)
    busy = f"{OTHER_SHOP}/busy.jpg"
    origin.script(busy, Reply(503, {"Retry-After": "30"}, b""))
    maker.sources[busy] = source(35)
    rows = [
        ("1", "Completed", [photo(20), photo(21, "png")], "a"),
        ("2", "In progress", [held[0], photo(22), held[0]], "b"),
        ("3", "Busy, später", [busy, held[0]], ""),
        *((str(n), f"Held {n}", [url], "c") for n, url in enumerate(held[1:], 4)),
        *((str(n), f"Waiting {n}", [photo(n)], "d") for n in range(40, 44)),
    ]
    url = f"{RECEIVER}/half-done"
    origin.script(url, Reply(503, body=b""))
    header = ("S. No.", "Product Name", "Input Image Urls", "Größe")
    query = f"?webhookUrl={quote(url, safe='')}"
    request_id = maker.upload("half_done", table(rows, header), query)

    slow = [f"{SLOW_SHOP}/{n}.jpg" for n in range(3)]
    for each in slow:
        origin.script(each, Reply(gate="never", photo=source(36)))
    cancelling = maker.upload("cancelling", table([("1", "Slow", [photo(37), *slow])]))

    def is_half_done() -> bool:
        status = service.status(request_id)
        attempts = [i["attempts"] for p in status["products"] for i in p["images"]]
        progress = status["progress"]
        # The image that waits for its retry and the three completed ones have one attempt each.
        if (progress["completed"], sum(attempts)) != (3, 4):
            return False
        return bool(progress["processing"] > 3 and progress["pending"] > 3)

    def is_under_way() -> bool:
        progress = service.status(cancelling)["progress"]
        return bool(progress["completed"] == 1 and progress["processing"] > 1)

    block_until(is_half_done, "half of the request", 30)
    block_until(is_under_way, "the request to cancel", 30)


@contextmanager
def deletions_fail(maker: Maker) -> Iterator[None]:
    """Start to delete two requests, as if the service were killed while it deletes them.

    A folder replaces the file of the first request, so both deletions fail: the first request is
    deleted except for its file, and the second is only marked for deletion. The file is restored after
    the block, when the service must have ended.
    """
    service = maker.service
    first = maker.finish("pending_deletion", "completed", table([("1", DELETED_NAME, photo(50))]))
    second = maker.finish(
        "deleting", "completed", table([("1", DELETED_NAME, [photo(51), photo(52)])])
    )
    removed = [
        str(stored_at(image["outputUrl"]))
        for request_id in (first, second)
        for image in service.status(request_id)["products"][0]["images"]
    ]
    assert set(removed) <= files_in(service.data_dir)
    path = service.data_dir / removed[0]
    data = path.read_bytes()
    path.unlink()
    path.mkdir()
    for request_id in (first, second):
        assert service.call("DELETE", f"/deleteRequest/{request_id}").status == 500
        assert service.get(f"/checkStatus/{request_id}").status == 404
    del maker.request_ids["pending_deletion"], maker.request_ids["deleting"]
    maker.expected["removed"] = {
        "requests": [first, second],
        "texts": [second, DELETED_NAME, STAGED_NAME, path.name],
        "files": removed,
    }
    yield
    path.rmdir()
    path.write_bytes(data)


@contextmanager
def uploading(maker: Maker) -> Iterator[None]:
    """Start an upload that never ends, and wait until its first rows are stored."""
    address = urlsplit(maker.service.url)
    assert address.hostname is not None
    cell = "A long cell. " * 4_000
    header = ("S. No.", "Product Name", "Input Image Urls", "Text")
    rows = [(n, STAGED_NAME, photo(60 + n), cell) for n in range(8)]
    connection = HTTPConnection(address.hostname, address.port, timeout=30)
    with closing(connection):
        connection.putrequest("POST", "/processImages")
        connection.putheader("Content-Type", "text/csv")
        connection.putheader("Content-Length", "10000000")
        connection.endheaders(table(rows, header))
        database = maker.service.data_dir / DATABASE
        block_until(lambda: contains_text(database, STAGED_NAME), "the first rows to be stored", 30)
        yield


def _add_rare_states(maker: Maker, connection: sqlite3.Connection) -> None:
    """Write the states that a kill leaves only at the right moment. Depends on the release's schema."""
    with connection:
        # A kill after the first commit of a cancellation, before the images are cancelled.
        changed = connection.execute(
            "UPDATE requests SET cancelling = 1, version = version + 1 WHERE request_id = ?",
            (maker.request_ids["cancelling"],),
        ).rowcount
        assert changed == 1
        # All retries are due, even if the clock of the machine that opens the folder is slow.
        connection.execute(
            f"UPDATE images SET not_before = not_before - {YEAR} WHERE not_before > 0"
        )
        connection.execute(
            f"UPDATE deliveries SET next_at = next_at - {YEAR} WHERE status = 'pending'"
        )
    tokens = connection.execute(
        "SELECT lower(hex(token)) FROM images i JOIN requests r ON r.key = i.request_key "
        "WHERE request_id = ? AND i.status = 'processing' AND token IS NOT NULL ORDER BY number",
        (maker.request_ids["half_done"],),
    ).fetchall()
    outputs = maker.service.data_dir / "outputs"
    (stored,), (written,), *_ = tokens
    # An output that was stored before its image was recorded as completed, and two partial files.
    path = outputs / stored[:2] / f"{stored}.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"stored, but not recorded")
    temporary = outputs / "tmp" / f"{written}.jpg.{'0' * 16}.tmp"
    temporary.write_bytes(b"half written")
    scratch = outputs / "tmp" / f"scratch.{'0' * 16}.tmp"
    scratch.write_bytes(b"half read")
    for each in (path, temporary, scratch):
        maker.expected["removed"]["files"].append(str(each.relative_to(maker.service.data_dir)))
    stages = dict(connection.execute("SELECT stage, count(*) FROM requests GROUP BY stage"))
    assert stages == {"staging": 1, "deleting": 1, "accepted": len(maker.request_ids)}
    assert connection.execute("SELECT count(*) FROM pending_deletions").fetchone() == (1,)


def pack(service: Service, folder: Path) -> None:
    """Copy the data folder of a killed service, and compress its database."""
    shutil.copytree(
        service.data_dir, folder, ignore=lambda _, names: [n for n in names if DATABASE in n]
    )
    for suffix in ("", "-wal"):
        data = (service.data_dir / f"{DATABASE}{suffix}").read_bytes()
        assert data
        (folder / f"{DATABASE}{suffix}.gz").write_bytes(gzip.compress(data, 9, mtime=0))


def make(folder: Path, scratch: Path, origin: Origin) -> None:
    """Write the data folder and the expected responses to `folder`, which must not exist."""
    settings = settings_for(origin)
    settings["fetch"] |= {"per_host": 2, "concurrency": 4}
    settings["webhook"] = {"retry_delays_seconds": [60, 300, 1_800]}
    service = Service(scratch, settings)
    maker = Maker(service, origin)
    try:
        service.start()
        make_finished(maker)
        # Stopping moves the finished requests into the database file. The WAL then has only the rest.
        assert service.stop() == 0
        service.restart()
        record_finished(maker)
        with deletions_fail(maker):
            make_half_done(maker)
            unfinished = {
                name: service.status(maker.request_ids[name])
                for name in ("half_done", "cancelling")
            }
            statuses = [each["json"] for each in maker.expected["finished"].values()]
            outputs = outputs_of(service, [*statuses, *unfinished.values()])
            with uploading(maker):
                service.kill()
    finally:
        service.close()
    with closing(sqlite3.connect(service.data_dir / DATABASE)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        _add_rare_states(maker, connection)
        # Closing the connection would move the WAL into the database.
        pack(service, folder / "data")
    pending = {"options": f"{RECEIVER}/pending", "half_done": f"{RECEIVER}/half-done"}
    expected = {
        "version": __version__,
        "sources": maker.sources,
        **maker.expected,
        "unfinished": unfinished,
        "outputs": outputs,
        "webhooks": pending,
    }
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    (folder / EXPECTED).write_text(text + "\n")


def main() -> None:
    """Write the folder of the running release. Replace an earlier one."""
    folder = FOLDER / __version__
    if folder.exists():
        shutil.rmtree(folder)
    origin = Origin()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            make(folder, Path(scratch), origin)
    finally:
        origin.close()
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(f"{folder}: {len(sizes)} files, {sum(sizes):,} bytes, the largest {max(sizes):,}")


if __name__ == "__main__":
    main()
