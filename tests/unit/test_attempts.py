"""Tests of the limit of wrong API keys by address."""

from __future__ import annotations

import pytest

from imgsvc.web.http.attempts import AttemptLimits, WrongKeys, attempt_address


def test_address_may_send_ten_wrong_keys_within_a_minute() -> None:
    wrong_keys = WrongKeys()
    assert [wrong_keys.record("a", n) for n in range(10)] == [0] * 10
    assert wrong_keys.record("a", 10.0) == 50
    assert wrong_keys.record("a", 59.5) == 1
    assert wrong_keys.record("b", 59.5) == 0


def test_refused_keys_do_not_extend_the_time_to_wait() -> None:
    wrong_keys = WrongKeys()
    for _ in range(100):
        wrong_keys.record("a", 0.0)
    assert wrong_keys.record("a", 60.0) == 0


def test_each_key_counts_for_a_minute() -> None:
    wrong_keys = WrongKeys()
    for now in [0.0] * 5 + [30.0] * 5:
        wrong_keys.record("a", now)
    assert [wrong_keys.record("a", 60.0) for _ in range(6)] == [0] * 5 + [30]


def test_address_is_at_its_limit_after_ten_wrong_keys() -> None:
    wrong_keys = WrongKeys()
    reached = []
    for _ in range(10):
        wrong_keys.record("a", 0.0)
        reached.append(wrong_keys.is_at_limit("a"))
    assert reached == [False] * 9 + [True]
    assert not wrong_keys.is_at_limit("b")


def test_only_the_latest_addresses_are_remembered() -> None:
    wrong_keys = WrongKeys(AttemptLimits(attempts=1, addresses=3))
    for address in "abcabd":
        wrong_keys.record(address, 0.0)
    assert {each: wrong_keys.is_at_limit(each) for each in "abcd"} == {
        "a": True,
        "b": True,
        "c": False,
        "d": True,
    }


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        (None, ""),
        ("unix", "unix"),
    ],
)
def test_wrong_keys_count_for_an_ipv4_address_or_an_ipv6_network(
    peer: str | None, address: str
) -> None:
    assert attempt_address(peer) == address
