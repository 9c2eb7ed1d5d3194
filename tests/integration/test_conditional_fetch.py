"""Tests of conditional requests: a host is asked only by what it has sent itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from imgsvc.config import FetchConfig
from imgsvc.errors import ImageError, ImageErrorCode
from imgsvc.models import Validators
from imgsvc.network.addresses import AddressRules
from imgsvc.network.byte_budget import ByteBudget
from imgsvc.network.fetch import Fetcher, ResponseBody
from imgsvc.network.session import open_session
from imgsvc.urls import url_key
from tests.origin import Origin, Reply

MODIFIED = "Sat, 28 Nov 2026 14:05:00 GMT"


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    config = FetchConfig(allowed_networks=("127.0.0.0/8",))
    async with open_session(config, AddressRules(config.allowed_networks)) as session:
        yield Fetcher(session, config, ByteBudget(2**20))


async def fetch(
    fetcher: Fetcher, url: str, validators: Validators | None = None
) -> ResponseBody | None:
    async with fetcher.fetch(url, validators) as body:
        return body


async def validators_of(fetcher: Fetcher, url: str) -> Validators:
    body = await fetch(fetcher, url)
    assert body is not None
    return body.validators


def conditions(origin: Origin, path: str) -> list[tuple[str | None, str | None]]:
    """Return `If-None-Match` and `If-Modified-Since` of each request for this path."""
    return [
        (seen.headers.get("if-none-match"), seen.headers.get("if-modified-since"))
        for seen in origin.seen(path)
    ]


@pytest.mark.parametrize("etag", ['"abc"', 'W/"abc"', "unquoted", '"a, b; c"'])
async def test_fetch_sends_validators_unchanged_and_returns_none_for_304(
    fetcher: Fetcher, origin: Origin, etag: str
) -> None:
    headers = {"ETag": etag, "Last-Modified": MODIFIED}
    url = origin.script("/a.jpg", Reply(headers=headers, body=b"x"))
    validators = await validators_of(fetcher, url)
    assert validators == Validators(url_key(url), etag, MODIFIED)
    assert await fetch(fetcher, url, validators) is None
    assert conditions(origin, "/a.jpg") == [(None, None), (etag, MODIFIED)]


async def test_fetch_returns_body_if_source_was_modified(fetcher: Fetcher, origin: Origin) -> None:
    url = origin.script("/a.jpg", Reply(headers={"Last-Modified": MODIFIED}, body=b"old"))
    validators = await validators_of(fetcher, url)
    origin.script("/a.jpg", Reply(headers={"ETag": '"2"'}, body=b"new"))
    body = await fetch(fetcher, url, validators)
    assert body == ResponseBody(b"new", "", Validators(url_key(url), '"2"'))


async def test_rejected_conditions_are_left_out_of_a_second_request(
    fetcher: Fetcher, origin: Origin
) -> None:
    url = origin.script("/a.jpg", Reply(412, body=b"no"), Reply(body=b"x"))
    body = await fetch(fetcher, url, Validators(url_key(url), '"1"', MODIFIED))
    assert body is not None
    assert body.data == b"x"
    assert conditions(origin, "/a.jpg") == [('"1"', MODIFIED), (None, None)]


@pytest.mark.parametrize(("conditional", "requests"), [(True, 2), (False, 1)])
async def test_412_to_request_without_conditions_is_an_error(
    fetcher: Fetcher, origin: Origin, conditional: bool, requests: int
) -> None:
    url = origin.script("/a.jpg", Reply(412))
    validators = Validators(url_key(url), '"1"') if conditional else None
    with pytest.raises(ImageError, match="412 Precondition Failed"):
        await fetch(fetcher, url, validators)
    assert len(origin.seen("/a.jpg")) == requests


async def test_304_to_request_without_conditions_is_an_error(
    fetcher: Fetcher, origin: Origin
) -> None:
    with pytest.raises(ImageError) as caught:
        await fetch(fetcher, origin.script("/a.jpg", Reply(304)))
    assert (caught.value.code, caught.value.message) == (
        ImageErrorCode.HTTP_STATUS,
        "304 Not Modified",
    )


async def test_conditions_go_only_to_the_url_that_set_them_after_a_redirect(
    fetcher: Fetcher, origin: Origin
) -> None:
    final = origin.script("/final.jpg", Reply(headers={"ETag": '"1"'}, body=b"x"))
    url = origin.script("/a.jpg", Reply(302, {"Location": final}))
    validators = await validators_of(fetcher, url)
    assert validators.url_key == url_key(final)
    assert await fetch(fetcher, url, validators) is None
    assert conditions(origin, "/a.jpg") == [(None, None)] * 2
    assert conditions(origin, "/final.jpg") == [(None, None), ('"1"', None)]

    other = origin.script("/other.jpg", Reply(headers={"ETag": '"1"'}, body=b"y"))
    origin.script("/a.jpg", Reply(302, {"Location": other}))
    body = await fetch(fetcher, url, validators)
    assert body is not None
    assert body.data == b"y"
    assert conditions(origin, "/other.jpg") == [(None, None)]


async def test_304_of_a_redirect_target_without_conditions_is_an_error(
    fetcher: Fetcher, origin: Origin
) -> None:
    """The first URL sets the validators; later it redirects to one that sends 304 to everything."""
    url = origin.script("/a.jpg", Reply(headers={"ETag": '"1"'}, body=b"x"))
    validators = await validators_of(fetcher, url)
    broken = origin.script("/broken.jpg", Reply(304))
    origin.script("/a.jpg", Reply(302, {"Location": broken}))
    with pytest.raises(ImageError, match="304"):
        await fetch(fetcher, url, validators)


@pytest.mark.parametrize("etag", ["", "*", '"\u00e9"'])
async def test_validator_that_cannot_be_sent_back_is_ignored(
    fetcher: Fetcher, origin: Origin, etag: str
) -> None:
    url = origin.script("/a.jpg", Reply(headers={"ETag": etag}, body=b"x"))
    assert await validators_of(fetcher, url) == Validators(url_key(url))
