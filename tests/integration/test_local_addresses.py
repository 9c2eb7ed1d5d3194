"""Own addresses of this machine and its IPv6 networks are recognised."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from imgsvc.network.local_addresses import LocalAddresses
from tests.origin import ROOT

INTERFACES = """\
00000000000000000000000000000001 01 80 10 80       lo
2a0104f8000100020000000000000005 02 40 00 80     eth0
fe8000000000000002163efffe000001 02 40 20 80     eth0
"""


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_is_own_recognises_address_of_this_machine(ip: str) -> None:
    assert LocalAddresses().is_own(ip_address(ip))


@pytest.mark.parametrize("ip", ["192.0.2.1", "2001:db8::1", "255.255.255.255"])
def test_is_own_denies_address_of_other_machine(ip: str) -> None:
    assert not LocalAddresses().is_own(ip_address(ip))


@pytest.mark.parametrize(
    ("ip", "on_link"),
    [
        ("2a01:4f8:1:2::5", True),
        ("2a01:4f8:1:2:ffff::1", True),
        ("2a01:4f8:1:3::5", False),
        ("fe80::2", True),
        ("::2", False),
        ("8.8.8.8", False),
    ],
)
def test_is_on_link_compares_with_networks_of_interfaces(
    tmp_path: Path, ip: str, on_link: bool
) -> None:
    (tmp_path / "if_inet6").write_text(INTERFACES)
    assert LocalAddresses(tmp_path / "if_inet6").is_on_link(ip_address(ip)) is on_link
    assert not LocalAddresses(tmp_path / "missing").is_on_link(ip_address(ip))


@pytest.mark.external
def test_own_public_addresses_are_reached_only_on_web_ports_or_if_allowed() -> None:
    program = ["unshare", "-rn", sys.executable, "-m", "tests.own_addresses"]
    output = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout
    results = json.loads(output)
    ipv4, ipv6, neighbour = "93.184.216.34", "[2a01:4f8:1:2::5]", "[2a01:4f8:1:2::6]"
    remedy = "To allow it, add {} to fetch.allowed_networks."
    for host in (ipv4, ipv6):
        assert results[f"{host}:80, allowed: "] == "reached"
        assert results[f"{host}:9000, allowed: "] == (
            f"blocked_address: Address of this machine. {remedy.format(f'{host}:9000')}"
        )
    for port in (80, 9_000):
        assert results[f"{neighbour}:{port}, allowed: "] == (
            "blocked_address: Address in the network of this machine. "
            + remedy.format(f"{neighbour}:{port}")
        )
    assert results[f"{ipv4}:9000, allowed: {ipv4}:9000"] == "reached"
    assert results[f"{ipv6}:9000, allowed: [2a01:4f8:1:2::/64]:9000"] == "reached"
    assert results[f"{ipv6}:9000, allowed: {ipv4}:9000"].startswith("blocked_address")
    assert results[f"{ipv4}:9000, allowed: [2a01:4f8:1:2::/64]:9000"].startswith("blocked_address")
    # A connection to the neighbour is tried if its port is allowed, and fails, because it is not there.
    allowed = results[f"{neighbour}:9000, allowed: [2a01:4f8:1:2::/64]:9000"]
    assert not allowed.startswith("blocked_address")
