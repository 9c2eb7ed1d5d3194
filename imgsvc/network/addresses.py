"""The rules for the IP addresses and ports that the service may connect to.

Allowed are the public internet, without this machine and its own networks, and the networks in the
configuration.

The table follows the IANA registries of special-purpose addresses (RFC 6890 and its successors).
It is explicit because `ipaddress.is_global` counts NAT64, 6to4, IPv4-compatible and multicast
addresses as global. An IPv6 address with an embedded IPv4 address is always denied: the service
cannot know which machine translates it, and to which address.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from imgsvc.config_types import parse_network
from imgsvc.network.local_addresses import LocalAddresses

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

BAD_PORTS = frozenset(
    {
        *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95),
        *(101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179),
        *(389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601),
        *(
            636,
            989,
            990,
            993,
            995,
            1719,
            1720,
            1723,
            2049,
            3659,
            4045,
            4190,
            5060,
            5061,
            6000,
            6566,
        ),
        *(6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
    }
)
"""The ports that browsers refuse, because other protocols than HTTP use them (Fetch Standard, 2.9)."""

WEB_PORTS = frozenset({80, 443})
"""The ports on which this machine's own public addresses are reached, as anyone outside can."""

_ISATAP = 0x0000_5EFE
_ISATAP_MASK = 0xFCFF_FFFF
"""The mask of the significant bits of `_ISATAP`.

`_ISATAP` is the upper half of an ISATAP interface identifier (RFC 5214, section 6.1).
"""


class BlockedAddressError(OSError):
    """The address or port is denied. `message` says why, and what would allow it.

    It does not name an address that is not public, because that may be secret.
    """

    def __init__(self, message: str) -> None:
        super().__init__(errno.EACCES, message)
        self.message = message


class AddressRules:
    """The allowed addresses: the public internet and `allowed_networks`.

    An allowed network contains only addresses of its own form. `127.0.0.0/8` allows `127.0.0.1`,
    but not `::ffff:127.0.0.1`, `64:ff9b::7f00:1` or any other IPv6 form of it. An address with a
    zone (`fe80::1%eth0`) is always denied. An entry with a port (`10.1.0.5:9000`) allows only that
    port, even if browsers refuse it. `setting` is the name of the list in the configuration.
    """

    def __init__(
        self,
        allowed_networks: Sequence[str] = (),
        *,
        setting: str = "fetch.allowed_networks",
    ) -> None:
        self._allowed = tuple(parse_network(network) for network in allowed_networks)
        self._setting = setting
        self._local = LocalAddresses()

    def check(self, ip: str, port: int) -> None:
        """Raise `BlockedAddressError` unless `ip`, in its usual notation, is allowed with the port."""
        if problem := self._problem(ip, port):
            raise BlockedAddressError(problem)

    def allows(self, ip: str, port: int) -> bool:
        """Return whether `ip` is allowed with the port. Text that is not an IP address is denied."""
        return self._problem(ip, port) is None

    def _problem(self, ip: str, port: int) -> str | None:
        """Return why the address is denied and what would allow it, or None if it is allowed."""
        private = f"Private address. To allow it, add its network to {self._setting}."
        try:
            address = ip_address(ip)
        except ValueError:
            return private
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return private
        ports = {entry_port for network, entry_port in self._allowed if address in network}
        if port in ports:
            return None
        public = is_public(address)
        entry = (
            f"{f'[{ip}]' if ':' in ip else ip}:{port}" if public else f"its address with :{port}"
        )
        remedy = f"To allow it, add {entry} to {self._setting}."
        if port in BAD_PORTS and (public or None in ports):
            return f"Browsers refuse port {port}, and so does this service. {remedy}"
        if None in ports:
            return None
        if not public:
            return private
        if self._local.is_own(address):
            return None if port in WEB_PORTS else f"Address of this machine. {remedy}"
        if self._local.is_on_link(address):
            return f"Address in the network of this machine. {remedy}"
        return None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is on the public internet and embeds no other address."""
    if any(address in network for network in DENIED_NETWORKS):
        return False
    if isinstance(address, IPv4Address):
        return True
    if int(address) >> 32 & _ISATAP_MASK == _ISATAP:
        return False
    return address in GLOBAL_UNICAST
