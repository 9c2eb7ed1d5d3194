"""The address rules deny every address that is not public, in every notation."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsvc.network.addresses import (
    BAD_PORTS,
    DENIED_NETWORKS,
    AddressRules,
    BlockedAddressError,
    is_public,
)


def split_words(text: str) -> list[str]:
    return text.split()


PUBLIC = split_words("""
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1
168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0
192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0
203.0.112.255 203.0.114.0 223.255.255.255 93.184.216.34
2606:4700:4700::1111 2a00:1450:4001:82b::200e 2001:200::1 2001:4860:4860::8888 2400:cb00::1
2001:db7:ffff::1 2001:db9::1 2003::1 3ffd::1 3fff:1000::1 2620:4f:7fff::1 2620:4f:8001::1
""")

NOT_PUBLIC = split_words("""
0.0.0.0 0.1.2.3 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255
127.0.0.0 127.0.0.1 127.1.2.3 127.255.255.255 168.63.129.16 169.254.0.0 169.254.169.254
169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.0 192.0.0.9 192.0.0.192 192.0.2.1 192.31.196.1
192.52.193.1 192.88.99.1 192.168.0.1 192.168.255.255 192.175.48.1 198.18.0.1 198.19.255.255
198.51.100.1 203.0.113.255 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.254 255.255.255.255
:: ::1 ::2 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1
64:ff9b::127.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::1 64:ff9b:1:ffff:ffff:ffff:ffff:ffff
100::1 100:0:0:1::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:1ff::1
2001:20::1 2001:30::1 2001:db8::1 2001:db8:ffff::1 2002::1 2002:7f00:1::1 2002:808:808::1
2620:4f:8000::1 3ffe::1 3fff::1 3fff:fff::1 4000::1 5f00::1 8000::1 fc00::1 fd00:ec2::254
fd20:ce::254 fe80::1 febf::1 fec0::1 feff::1 ff02::1 ff0e::1 ffff::1 1fff::1 400::1 800::1
2606:4700::5efe:7f00:1 2606:4700::5efe:127.0.0.1 2606:4700::200:5efe:10.0.0.1
2606:4700:0:1:100:5efe:8.8.8.8 2606:4700:0:1:300:5efe:8.8.8.8
""")

NOT_ADDRESSES = split_words("""
localhost 2130706433 0x7f000001 0x7f.1 127.1 127.0.1 0177.0.0.1 127.0.0.01 127.0.0.1. 127.0.0.256
①②⑦.⓪.⓪.① 127。0。0。1 [::1] [8.8.8.8] fe80::1% 8.8.8.8/32 8.8.8.8:80 v1.x:y
1.1.1.1%eth0 8.8.8.8\x00 ٨.٨.٨.٨ ::ffff:127.0.0.1.
""")


@pytest.mark.parametrize("ip", PUBLIC)
def test_check_allows_public_address(ip: str) -> None:
    AddressRules().check(ip, 443)


@pytest.mark.parametrize("ip", NOT_PUBLIC)
def test_check_denies_address_that_is_not_public(ip: str) -> None:
    with pytest.raises(BlockedAddressError):
        AddressRules().check(ip, 443)


@pytest.mark.parametrize("ip", [*NOT_ADDRESSES, "", " ", " 8.8.8.8", "8.8.8.8 ", "8.8.8.8\n"])
def test_check_denies_text_that_is_not_address_in_usual_notation(ip: str) -> None:
    with pytest.raises(BlockedAddressError):
        AddressRules(["0.0.0.0/0", "::/0"]).check(ip, 443)


@pytest.mark.parametrize("ip", ["fe80::1%eth0", "::1%lo", "2606:4700::1%1", "fe80::1%25eth0"])
def test_allows_denies_address_with_zone_even_if_all_are_allowed(ip: str) -> None:
    assert not AddressRules(["::/0"]).allows(ip, 443)


@pytest.mark.parametrize(
    ("network", "allowed", "denied"),
    [
        ("127.0.0.1/32", "127.0.0.1", ["127.0.0.2", "127.0.0.0", "::1", "10.0.0.1"]),
        ("127.0.0.0/8", "127.3.2.1", ["::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1"]),
        ("10.0.0.0/8", "10.1.2.3", ["2002:a00:1::1", "11.0.0.0:1", "2606:4700::5efe:10.0.0.1"]),
        ("::1", "::1", ["::2", "::", "127.0.0.1", "::ffff:0:1"]),
        ("::ffff:127.0.0.0/104", "::ffff:127.0.0.1", ["127.0.0.1", "::ffff:10.0.0.1"]),
        ("fd00::/8", "fd12::1", ["fc00::1", "fe80::1"]),
        ("0.0.0.0/0", "169.254.169.254", ["::ffff:169.254.169.254", "::1"]),
        ("64:ff9b::/96", "64:ff9b::10.0.0.1", ["64:ff9b:1::1", "10.0.0.1"]),
    ],
)
def test_allowed_network_allows_no_other_form_of_its_addresses(
    network: str, allowed: str, denied: list[str]
) -> None:
    rules = AddressRules([network])
    rules.check(allowed, 443)
    rules.check("8.8.8.8", 443)
    for ip in denied:
        assert not rules.allows(ip, 443), ip


@given(st.integers(0, 2**32 - 1))
def test_is_public_allows_no_ipv4_address_that_standard_library_denies(number: int) -> None:
    address = IPv4Address(number)
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(st.integers(0, 2**128 - 1))
def test_is_public_allows_no_ipv6_address_that_standard_library_denies(number: int) -> None:
    address = IPv6Address(number)
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert {address.sixtofour, address.teredo, address.ipv4_mapped} == {None}


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_is_public_denies_ipv6_address_with_embedded_ipv4_address(inner: int, high: int) -> None:
    embedded = IPv4Address(inner)
    packed = embedded.packed.hex()
    forms = [
        IPv6Address(inner),
        IPv6Address(0xFFFF << 32 | inner),
        IPv6Address(0xFFFF << 48 | inner),
        IPv6Address(f"64:ff9b::{embedded}"),
        IPv6Address(f"64:ff9b:1::{embedded}"),
        IPv6Address(f"2002:{packed[:4]}:{packed[4:]}::1"),
        IPv6Address(f"2001:0:{packed[:4]}:{packed[4:]}::1"),
        IPv6Address(0x2001 << 112 | (inner ^ 0xFFFFFFFF)),
        IPv6Address(high << 64 | 0x00005EFE << 32 | inner),
        IPv6Address(high << 64 | 0x02005EFE << 32 | inner),
    ]
    assert not [str(address) for address in forms if is_public(address)]


@pytest.mark.parametrize("network", DENIED_NETWORKS, ids=str)
def test_is_public_denies_first_middle_and_last_address_of_denied_network(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    for address in (network[0], network[-1], network[network.num_addresses // 2]):
        assert not is_public(address)


def test_check_raises_oserror_that_names_no_address() -> None:
    with pytest.raises(OSError, match="Private address") as caught:
        AddressRules().check("10.11.12.13", 443)
    assert "10.11" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "allowed", "denied"),
    [
        ("10.1.0.5:9000", ("10.1.0.5", 9000), [("10.1.0.5", 9001), ("10.1.0.6", 9000)]),
        ("10.1.0.0/16:443", ("10.1.2.3", 443), [("10.1.2.3", 80), ("10.2.0.1", 443)]),
        ("[fd00::1]:22", ("fd00::1", 22), [("fd00::1", 443), ("fd00::2", 22)]),
        ("[fd00::/8]:443", ("fd12::1", 443), [("fd12::1", 80), ("fe80::1", 443)]),
        ("8.8.8.8:25", ("8.8.8.8", 25), [("8.8.4.4", 25), ("8.8.8.8", 22)]),
        ("fd00::1:9000", ("fd00::1:9000", 443), [("fd00::1", 9000)]),
    ],
)
def test_entry_with_port_allows_only_that_port(
    entry: str, allowed: tuple[str, int], denied: list[tuple[str, int]]
) -> None:
    rules = AddressRules([entry])
    rules.check(*allowed)
    for address in denied:
        assert not rules.allows(*address)


@pytest.mark.parametrize("port", [0, 22, 25, 143, 6000, 6667, 10080])
def test_port_that_browsers_refuse_is_denied_and_message_names_entry(port: int) -> None:
    with pytest.raises(BlockedAddressError, match=rf"add 8\.8\.8\.8:{port} to fetch\."):
        AddressRules().check("8.8.8.8", port)
    with pytest.raises(BlockedAddressError, match=rf"add \[2606:4700::1\]:{port} to webhook\."):
        AddressRules(setting="webhook.allowed_networks").check("2606:4700::1", port)


def test_network_without_port_does_not_allow_bad_port_and_message_hides_address() -> None:
    rules = AddressRules(["10.0.0.0/8"])
    rules.check("10.1.2.3", 9000)
    with pytest.raises(BlockedAddressError, match="its address with :22") as caught:
        rules.check("10.1.2.3", 22)
    assert "10.1" not in str(caught.value)


def test_ports_that_web_servers_use_are_not_denied() -> None:
    assert not {80, 443, 8000, 8080, 8081, 8443, 3000, 5000, 9000} & BAD_PORTS
