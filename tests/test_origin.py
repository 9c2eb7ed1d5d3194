"""The harness itself: what every other test believes."""

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
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def test_it_serves_pictures_by_number(origin: Origin) -> None:
    for extension, name in sample_images.FORMATS.items():
        data = fetch(origin.photo(3, extension, "?w=200&h=100"))
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == (name, (200, 100))
        assert sample_images.is_picture(data, 3, limit=12 if extension == "gif" else 6)
        assert not sample_images.is_picture(data, 11)
    assert origin.hits("/photo/3.jpg") == 1
    assert origin.seen("/photo/3.jpg")[0].target == "/photo/3.jpg?w=200&h=100"


def test_no_two_of_its_pictures_are_the_same() -> None:
    images = [sample_images.photograph(n, 48, 36) for n in range(64)]
    close = [
        (one, other)
        for one in range(64)
        for other in range(one)
        if sample_images.difference(images[one], images[other]) < 6
    ]
    assert close == []


def test_it_does_what_it_is_told_in_order(origin: Origin) -> None:
    url = origin.script("/a.jpg", Reply(503), Reply(photo="/photo/7.jpg"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(url)
    refused.value.close()
    assert refused.value.code == 503
    assert fetch(url) == fetch(url) == sample_images.encoded(7)
    with pytest.raises(urllib.error.HTTPError) as missing:
        fetch(origin.url("/nothing"))
    missing.value.close()
    assert missing.value.code == 404


def test_it_breaks_off_drips_and_waits_at_a_gate(origin: Origin) -> None:
    with pytest.raises(IncompleteRead):
        fetch(origin.script("/cut", Reply(body=b"x" * 100, cut=10)))
    assert (
        fetch(origin.script("/drip", Reply(body=b"abcdef", drip=(2, 0.01), chunked=True)))
        == b"abcdef"
    )
    held = origin.script("/held", Reply(body=b"held", gate="g"))
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(fetch(held)))
    thread.start()
    origin.wait_for_hits("/held", 1)
    assert got == []
    origin.open_gate("g")
    thread.join(10)
    assert got == [b"held"]
    assert origin.peak() == 1


def test_it_takes_what_is_posted(origin: Origin) -> None:
    url = origin.script("/hook", Reply(204))
    call = urllib.request.Request(url, b'{"a": 1}', {"Webhook-Id": "1"}, method="POST")
    with urllib.request.urlopen(call, timeout=10) as answer:
        assert answer.status == 204
    (seen,) = origin.seen("/hook")
    assert (seen.method, seen.body, seen.headers["webhook-id"]) == ("POST", b'{"a": 1}', "1")


def test_its_process_ends_with_the_test() -> None:
    origin = Origin()
    origin.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((origin.host, origin.port), 5)
