"""The origin server that other tests rely on sends what a test has scripted."""

from __future__ import annotations

import io
import socket
import threading
import urllib.error
import urllib.request
from http.client import IncompleteRead

import pytest
from PIL import Image

from tests import sample_images
from tests.origin import Origin, Reply


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        body: bytes = response.read()
        return body


def test_origin_serves_images_by_number(origin: Origin) -> None:
    for extension, name in sample_images.FORMATS.items():
        data = fetch(origin.photo(3, extension, "?w=200&h=100"))
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == (name, (200, 100))
        assert sample_images.is_photograph(data, 3, limit=12 if extension == "gif" else 6)
        assert not sample_images.is_photograph(data, 11)
    assert origin.hits("/photo/3.jpg") == 1
    assert origin.seen("/photo/3.jpg")[0].target == "/photo/3.jpg?w=200&h=100"


def test_photographs_are_all_different() -> None:
    images = [sample_images.photograph(n, 48, 36) for n in range(64)]
    similar = [
        (first, second)
        for first in range(64)
        for second in range(first)
        if sample_images.difference(images[first], images[second]) < 6
    ]
    assert similar == []


def test_origin_sends_scripted_replies_in_order_and_404_for_unknown_path(origin: Origin) -> None:
    url = origin.script("/a.jpg", Reply(503), Reply(photo="/photo/7.jpg"))
    with pytest.raises(urllib.error.HTTPError) as unavailable:
        fetch(url)
    unavailable.value.close()
    assert unavailable.value.code == 503
    assert fetch(url) == fetch(url) == sample_images.encoded(7)
    with pytest.raises(urllib.error.HTTPError) as missing:
        fetch(origin.url("/nothing"))
    missing.value.close()
    assert missing.value.code == 404


def test_origin_cuts_drips_and_holds_responses(origin: Origin) -> None:
    with pytest.raises(IncompleteRead):
        fetch(origin.script("/cut", Reply(body=b"x" * 100, cut=10)))
    assert (
        fetch(origin.script("/drip", Reply(body=b"abcdef", drip=(2, 0.01), chunked=True)))
        == b"abcdef"
    )
    held = origin.script("/held", Reply(body=b"held", gate="g"))
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(fetch(held)))
    thread.start()
    origin.wait_for_hits("/held", 1)
    assert received == []
    origin.open_gate("g")
    thread.join(10)
    assert received == [b"held"]
    assert origin.peak() == 1


def test_origin_records_posted_request(origin: Origin) -> None:
    url = origin.script("/hook", Reply(204))
    request = urllib.request.Request(url, b'{"a": 1}', {"Webhook-Id": "1"}, method="POST")
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 204
    (seen,) = origin.seen("/hook")
    assert (seen.method, seen.body, seen.headers["webhook-id"]) == ("POST", b'{"a": 1}', "1")


def test_close_ends_process_of_origin() -> None:
    origin = Origin()
    origin.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((origin.host, origin.port), 5)
