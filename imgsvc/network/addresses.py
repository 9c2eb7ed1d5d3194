"""The rules for the IP addresses that the service may connect to. No I/O.

Allowed are the public internet and the networks in the configuration.

The table follows the IANA registries of special-purpose addresses (RFC 6890 and its successors).
It is explicit because `ipaddress.is_global` counts NAT64, 6to4, IPv4-compatible and multicast
addresses as global. An IPv6 address with an embedded IPv4 address is always denied: the service
cannot know which machine translates it, and to which address.
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
        "100.64.0.0/10",  # carrier-grade NAT; the metadata service of one cloud provider
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # internal services of one cloud provider, on a public address
        "169.254.0.0/16",  # link-local; the metadata service of most cloud providers
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocols; the metadata service of one cloud provider
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
        "240.0.0.0/4",  # reserved; broadcast
        "::/8",  # unspecified, loopback, IPv4-compatible, -mapped and -translated, NAT64
        "100::/8",  # discard-only, dummy prefix
        "2001::/23",  # IETF protocols: Teredo, benchmarks, ORCHID, AS112, multicast tunnels
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # 6bone, no longer in use
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local
        "fc00::/7",  # unique local; the metadata services of some cloud providers
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, deprecated
        "ff00::/8",  # multicast
    )
)
"""The networks that are denied unless the configuration allows them."""

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only part of IPv6 that is assigned to the public internet."""

_ISATAP = 0x0000_5EFE
_ISATAP_MASK = 0xFCFF_FFFF
"""The mask of the significant bits of `_ISATAP`.

`_ISATAP` is the upper half of an ISATAP interface identifier (RFC 5214, section 6.1).
"""


class BlockedAddressError(OSError):
    """The address is denied. The message does not name the address, because it may be secret."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "the address is not on the public internet")


class AddressRules:
    """The allowed addresses: the public internet and `allowed_networks`.

    An allowed network contains only addresses of its own form. `127.0.0.0/8` allows `127.0.0.1`,
    but not `::ffff:127.0.0.1`, `64:ff9b::7f00:1` or any other IPv6 form of it. An address with a
    zone (`fe80::1%eth0`) is always denied.
    """

    def __init__(self, allowed_networks: Sequence[str] = ()) -> None:
        self._allowed = tuple(ip_network(network) for network in allowed_networks)

    def check(self, ip: str) -> None:
        """Raise `BlockedAddressError` unless `ip`, in its usual notation, is allowed."""
        if not self.allows(ip):
            raise BlockedAddressError

    def allows(self, ip: str) -> bool:
        """Return whether `ip` is allowed. Text that is not an IP address is denied."""
        try:
            address = ip_address(ip)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        return any(address in network for network in self._allowed) or is_public(address)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is on the public internet and embeds no other address."""
    if any(address in network for network in DENIED_NETWORKS):
        return False
    if isinstance(address, IPv4Address):
        return True
    if int(address) >> 32 & _ISATAP_MASK == _ISATAP:
        return False
    return address in GLOBAL_UNICAST
