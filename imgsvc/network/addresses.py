"""May this address be reached? Only the public internet, and what the operator names. Pure.

The tables follow the IANA registries of special-purpose addresses (RFC 6890 and its successors) and
are deliberately explicit: `ipaddress.is_global` calls NAT64, 6to4, IPv4-compatible and multicast
addresses global. An IPv6 address that carries an IPv4 address inside is refused whatever it carries,
since who translates it, and to what, is not ours to know.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

DENIED_NETWORKS = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host, this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers (CGNAT); one cloud's metadata service
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's own services, on a public address
        "169.254.0.0/16",  # link-local; most clouds' metadata service
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocols; one cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # multicast tunnels
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "::/8",  # unspecified, loopback, IPv4-compatible, -mapped and -translated, NAT64
        "100::/8",  # discard-only, dummy prefix
        "2001::/23",  # IETF protocols: Teredo, benchmarks, ORCHID, AS112, multicast tunnels
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # 6bone, returned
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local
        "fc00::/7",  # unique local; some clouds' metadata services
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, once
        "ff00::/8",  # multicast
    )
)
"""What is refused unless it is named."""

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only part of IPv6 that has been given out to the public internet."""

_ISATAP = 0x0000_5EFE
_ISATAP_MASK = 0xFCFF_FFFF
"""The upper half of an ISATAP interface identifier, and the bits that count in it (RFC 5214, 6.1)."""


class BlockedAddressError(OSError):
    """An address that is not to be reached. The message names no address: it may be a secret."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the address is not on the public internet")


class AddressRules:
    """Which addresses may be reached: the public internet, and `allowed_networks`.

    A named network opens the addresses that are written within it and nothing else: `127.0.0.0/8`
    opens `127.0.0.1`, and not `::ffff:127.0.0.1`, `64:ff9b::7f00:1` or another disguise of it. An
    address with a zone (`fe80::1%eth0`) cannot be named, and is always refused.
    """

    def __init__(self, allowed_networks: Sequence[str] = ()) -> None:
        self._allowed = tuple(ip_network(network) for network in allowed_networks)

    def check(self, ip: str) -> None:
        """Raise `BlockedAddressError` unless `ip`, in its usual spelling, may be reached."""
        if not self.allows(ip):
            raise BlockedAddressError

    def allows(self, ip: str) -> bool:
        """Tell whether `ip` may be reached; what is not an address may not."""
        try:
            address = ip_address(ip)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        return any(address in network for network in self._allowed) or is_public(address)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is on the public internet, and is what it seems to be."""
    if any(address in network for network in DENIED_NETWORKS):
        return False
    if isinstance(address, IPv4Address):
        return True
    if int(address) >> 32 & _ISATAP_MASK == _ISATAP:
        return False
    return address in GLOBAL_UNICAST
