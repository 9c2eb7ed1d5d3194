"""Tests of `GET /images/{token}/thumbnail`."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image

from imgsvc.adapters import Replacements
from imgsvc.errors import ProblemError
from imgsvc.processing.thumbnails import MAX_WAITING_THUMBNAILS
from imgsvc.storage.filesystem import FilesystemStore
from tests.fake_executor import FakeExecutor
from tests.harness.http import HttpHarness, open_http
from tests.harness.service import SwitchableDisk
from tests.memory_store import MemoryStore
from tests.waiting import wait_until


@asynccontextmanager
async def open_fake(
    folder: Path, store: MemoryStore | None = None
) -> AsyncIterator[tuple[HttpHarness, FakeExecutor]]:
    """Open a service whose thumbnails are made by a fake executor."""
    data_dir = folder / "data"
    outputs = store or FilesystemStore(data_dir, SwitchableDisk(data_dir))
    executor = FakeExecutor(outputs)
    replacements = Replacements(store=outputs, executor=executor)
    async with open_http(folder, replacements=replacements) as http:
        yield http, executor


async def store_output(http: HttpHarness, data: bytes, url: str = "http://a.example/1.jpg") -> str:
    """Store an output, and return the path of its thumbnail."""
    request_id = await http.upload([(1, "Lamp", url, "")])
    await http.complete(await http.claim(), data)
    status = (await http.get(f"/checkStatus/{request_id}?format=json")).json()
    token = status["products"][0]["images"][0]["outputUrl"].split("/")[-2]
    return f"/images/{token}/thumbnail"


def cached(http: HttpHarness) -> list[Path]:
    """Return the cached files."""
    folder = http.service.config.storage.data_dir / "thumbnails"
    return [path for path in folder.rglob("*") if path.is_file()]


def animation(width: int, height: int) -> bytes:
    """Return an animated GIF: a red frame, then a blue one."""
    out = io.BytesIO()
    frames = [Image.new("RGB", (width, height), colour) for colour in ("red", "blue")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


async def test_thumbnail_is_a_small_webp_of_the_first_frame(tmp_path: Path) -> None:
    async with open_http(tmp_path) as http:
        await http.service.executor.start()
        for number, size, expected in (
            (1, (800, 400), (320, 160)),
            (2, (30, 640), (15, 320)),
            (3, (40, 20), (40, 20)),
        ):
            path = await store_output(http, animation(*size), f"http://a.example/{number}.gif")
            response = await http.get(path)
            assert response.status == 200, response.body
            assert response.headers["Content-Type"] == "image/webp"
            with Image.open(io.BytesIO(response.body), formats=["WEBP"]) as image:
                assert image.size == expected
                assert getattr(image, "n_frames", 1) == 1
                red, _, blue = image.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
                assert red > 200
                assert blue < 50
        assert len(cached(http)) == 3


async def test_thumbnail_has_headers_of_outputs_and_is_made_once(tmp_path: Path) -> None:
    async with open_fake(tmp_path, MemoryStore()) as (http, executor):
        path = await store_output(http, b"output")
        response = await http.get(path)
        assert (response.status, response.body) == (200, b"o")
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in response.headers["Content-Security-Policy"]
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        head = await http.call("HEAD", path)
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "1")
        unchanged = await http.get(path, {"If-None-Match": response.headers["ETag"]})
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert unchanged.headers["ETag"] == response.headers["ETag"]
        assert executor.thumbnails == [b"output"]


async def test_thumbnail_needs_no_key_and_an_existing_output(tmp_path: Path) -> None:
    async with open_http(tmp_path, server={"api_keys": ["a-key-of-this-test"]}) as http:
        for token in ("0" * 32, "x", "%00", "..%2f.."):
            response = await http.get(f"/images/{token}/thumbnail")
            assert response.status == 404, token
            response.problem()


async def test_thumbnail_is_404_when_output_is_missing_or_damaged(tmp_path: Path) -> None:
    store = MemoryStore()
    async with open_fake(tmp_path, store) as (http, executor):
        damaged = await store_output(http, b"refuse this")
        response = await http.get(damaged)
        assert response.status == 404
        assert "It is damaged." in response.problem()["detail"]
        store.outputs.clear()
        assert (await http.get(damaged)).status == 404
        assert executor.thumbnails == []
        assert cached(http) == []


async def test_concurrent_calls_make_one_thumbnail_and_too_many_get_503(tmp_path: Path) -> None:
    async with open_fake(tmp_path) as (http, executor):
        paths = [
            await store_output(http, b"hang", f"http://a.example/{number}.jpg")
            for number in range(MAX_WAITING_THUMBNAILS + 1)
        ]
        jobs = http.service.thumbnails._jobs
        calls = [asyncio.create_task(http.get(path)) for path in (*paths[:-1], *paths[:3])]
        await wait_until(lambda: len(jobs) == MAX_WAITING_THUMBNAILS, "the thumbnails to wait")
        response = await http.get(paths[-1])
        assert response.status == 503
        assert response.problem()["type"] == "urn:imgsvc:problem:unavailable"
        assert int(response.headers["Retry-After"]) > 0
        await executor.close(0)
        assert {(await call).status for call in calls} == {503}
        await wait_until(lambda: not jobs, "the thumbnails to end")


async def test_concurrent_calls_for_one_output_share_the_work(tmp_path: Path) -> None:
    async with open_fake(tmp_path) as (http, executor):
        path = await store_output(http, b"output")
        responses = await asyncio.gather(*(http.get(path) for _ in range(20)))
        assert {(response.status, response.body) for response in responses} == {(200, b"o")}
        assert executor.thumbnails == [b"output"]


async def test_thumbnail_is_made_although_the_first_caller_disconnects(tmp_path: Path) -> None:
    async with open_fake(tmp_path) as (http, _):
        token = (await store_output(http, b"hang")).split("/")[2]
        output = await http.service.queries.public_output(token)
        assert output is not None
        thumbnails = http.service.thumbnails
        calls = [asyncio.create_task(thumbnails.get(token, output)) for _ in range(2)]
        await wait_until(lambda: bool(thumbnails._jobs), "the thumbnail to start")
        calls[0].cancel()
        await asyncio.wait(calls[:1])
        await asyncio.sleep(0)
        assert list(thumbnails._jobs) == [output.name]
        await thumbnails.close()
        await asyncio.wait(calls)
        assert isinstance(calls[1].exception(), ProblemError)


async def test_thumbnail_is_deleted_with_its_output(tmp_path: Path) -> None:
    async with open_fake(tmp_path) as (http, _):
        path = await store_output(http, b"output")
        assert (await http.get(path)).status == 200
        assert len(cached(http)) == 1
        (request,) = (await http.get("/listRequests")).json()["requests"]
        deleted = await http.call("DELETE", f"/deleteRequest/{request['requestId']}")
        assert deleted.status == 204
        await http.service._maintenance.purge()
        assert cached(http) == []
        assert (await http.get(path)).status == 404


async def test_thumbnail_of_an_output_deleted_meanwhile_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_fake(tmp_path) as (http, executor):
        path = await store_output(http, b"output")
        (request,) = (await http.get("/listRequests")).json()["requests"]

        async def delete_first(data: bytes) -> bytes:
            await http.call("DELETE", f"/deleteRequest/{request['requestId']}")
            await http.service._maintenance.purge()
            return data

        monkeypatch.setattr(executor, "make_thumbnail", delete_first)
        assert (await http.get(path)).status == 200
        assert cached(http) == []


async def test_stopped_service_makes_no_thumbnails(tmp_path: Path) -> None:
    async with open_fake(tmp_path) as (http, executor):
        path = await store_output(http, b"hang")
        call = asyncio.create_task(http.get(path))
        await wait_until(lambda: bool(http.service.thumbnails._jobs), "the thumbnail to start")
        await http.service.thumbnails.close()
        response = await call
        assert response.status == 503
        assert "stopping" in response.problem()["detail"]
        assert executor.thumbnails == []
