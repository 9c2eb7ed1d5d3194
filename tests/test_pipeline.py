"""One image's way, and what twins save: equal content is compressed once, whoever brings it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from imgsvc.models import Progress
from imgsvc.pictures import Settings
from imgsvc.processing import queue
from tests.origin import Origin, Reply
from tests.workshop import Workshop, opened_workshop, until


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Workshop]:
    async with opened_workshop(tmp_path) as shop:
        yield shop


async def test_content_that_is_under_way_is_compressed_once(shop: Workshop, origin: Origin) -> None:
    script = shop.script("same", f"wait={shop.path('go')}")
    urls = [origin.serve(f"/{n}.jpg", script) for n in range(6)]
    one = await shop.accept(*urls[:4])
    other = await shop.accept(*urls[4:])
    await until(lambda: waiting_twins(shop) == 5, "five to wait for the sixth")
    shop.path("go").touch()
    assert (await shop.done(one)).progress == Progress(completed=4)
    assert (await shop.done(other)).progress == Progress(completed=2)
    assert shop.tries("same") == 1
    assert len(shop.stored()) == 1


async def test_other_settings_make_another_output(shop: Workshop, origin: Origin) -> None:
    url = origin.serve("/a.jpg", shop.script("a"))
    first = await shop.accept(url)
    second = await shop.books.accept([[url]], settings=Settings(progressive=True))
    shop.queue.wake()
    await shop.done(first)
    await shop.done(second)
    assert shop.tries("a") == 2
    assert len(shop.stored()) == 2


async def test_a_twin_takes_over_from_one_that_fails(shop: Workshop, origin: Origin) -> None:
    """The first try fails; the images that waited for it do not fail with it."""
    acts = f"once={shop.path('tried')} touch={shop.path('begun')} wait={shop.path('go')} refuse"
    script = shop.script("same", acts)
    first = await shop.accept(origin.serve("/1.jpg", script))
    await until(shop.path("begun").exists, "the first of the twins")
    others = await shop.accept(*(origin.serve(f"/{n}.jpg", script) for n in (2, 3, 4)))
    await until(lambda: waiting_twins(shop) == 3, "the others to wait for it")
    shop.path("go").touch()
    assert (await shop.done(first)).progress == Progress(failed=1)
    assert (await shop.done(others)).progress == Progress(completed=3)
    assert shop.tries("same") == 2, "one of the others takes over, for all of them"


async def test_a_twin_takes_over_from_one_that_found_no_room(
    shop: Workshop, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "REST_SECONDS", 0.1)
    acts = f"once={shop.path('tried')} touch={shop.path('begun')} wait={shop.path('go')}"
    script = shop.script("same", acts)
    first = await shop.accept(origin.serve("/1.jpg", script))
    await until(shop.path("begun").exists, "the first of the twins")
    second = await shop.accept(origin.serve("/2.jpg", script))
    await until(lambda: waiting_twins(shop) == 1, "the other to wait for it")
    shop.room_to_store = False
    shop.path("go").touch()
    await until(lambda: shop.tries("same") == 2, "the other's turn")
    shop.room_to_store = True
    assert (await shop.done(second)).progress == Progress(completed=1)
    assert (await shop.done(first)).progress == Progress(completed=1)
    assert len(shop.stored()) == 1


async def test_content_that_was_stored_before_is_not_compressed_again(
    tmp_path: Path, origin: Origin
) -> None:
    async with opened_workshop(tmp_path) as shop:
        first = await shop.accept(origin.serve("/1.jpg", shop.script("same")))
        await shop.done(first)
        stored = shop.stored()
    async with opened_workshop(tmp_path) as shop:
        second = await shop.accept(origin.serve("/2.jpg", shop.script("same")))
        assert (await shop.done(second)).progress == Progress(completed=1)
        assert (shop.tries("same"), shop.stored()) == (1, stored)


async def test_a_page_in_place_of_a_picture_is_described(tmp_path: Path, origin: Origin) -> None:
    page = b"<html><title>Sign in</title></html>"
    async with opened_workshop(tmp_path, function="imgsvc.images.codec:compress_image") as shop:
        request = await shop.accept(origin.serve("/a.jpg", page, "text/html"), origin.photo(1))
        assert (await shop.done(request)).progress == Progress(completed=1, failed=1)
        message = await shop.books.database.read(
            lambda c: c.execute("SELECT error_message FROM images WHERE number = 0").fetchone()[0]
        )
        assert "Sign in" in message
        (name,) = shop.stored()
        assert shop.files.path(name).stat().st_size == (await shop.shown(request)).output_bytes


async def test_a_failed_fetch_is_put_down_to_its_origin_and_a_failed_picture_is_not(
    shop: Workshop, origin: Origin
) -> None:
    corrupt = origin.serve("/corrupt.jpg", shop.script("corrupt", "refuse"))
    missing = origin.script("/missing.jpg", Reply(404))
    request = await shop.done(await shop.accept(corrupt, missing))
    assert sorted(failure.code for failure in request.failures) == ["corrupt_image", "http_status"]
    assert [image[1] for image in await shop.images(request)] == [1, 1]
    assert shop.stored() == set()


def waiting_twins(shop: Workshop) -> int:
    """How many flights have their bytes, and wait for another's output."""
    flights = shop.queue._flights.values()
    return sum(flight.fetched and flight.content is None for flight in flights)
