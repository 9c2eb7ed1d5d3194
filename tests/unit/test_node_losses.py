"""Losses of images whose nodes were lost."""

from __future__ import annotations

from imgsvc.execution.cluster.node_losses import MAX_IMAGES, NodeLosses
from imgsvc.image_types import CompressionSettings
from imgsvc.models import Claim


def claim(url: str) -> Claim:
    return Claim(1, 1, "request", (0,), url, "http://a", attempts=0, settings=CompressionSettings())


def test_image_is_suspect_from_its_second_loss_and_fails_at_the_third() -> None:
    losses = NodeLosses()
    assert losses.record(claim("http://a/1"))
    assert not losses.is_suspect(claim("http://a/1"))
    assert losses.record(claim("http://a/1"))
    assert losses.is_suspect(claim("http://a/1"))
    assert not losses.is_suspect(claim("http://a/2"))
    assert not losses.record(claim("http://a/1"))


def test_losses_are_forgotten_after_a_success() -> None:
    losses = NodeLosses()
    losses.record(claim("http://a/1"))
    losses.record(claim("http://a/1"))
    losses.clear(claim("http://a/1"))
    assert not losses.is_suspect(claim("http://a/1"))
    assert losses.record(claim("http://a/1"))


def test_only_the_newest_losses_are_remembered() -> None:
    losses = NodeLosses()
    for _ in range(2):
        losses.record(claim("http://a/first"))
    for number in range(MAX_IMAGES):
        losses.record(claim(f"http://a/{number}"))
    assert not losses.is_suspect(claim("http://a/first"))
