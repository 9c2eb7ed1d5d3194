"""Finds out whether an address belongs to this machine, or to a network that it is part of."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Interface
from pathlib import Path

from imgsvc.machine_errors import is_machine_error

INTERFACES = Path("/proc/net/if_inet6")
"""The IPv6 addresses of this machine with their networks. Only Linux has this file."""


class LocalAddresses:
    """The addresses of this machine and its IPv6 networks, as they are at the moment of the question.

    A connection to an own address does not pass the firewall that protects the machine from outside. In
    IPv6, printers and other devices of an office have public addresses in the network of the machine.
    `interfaces` is a file such as `INTERFACES`.
    """

    def __init__(self, interfaces: Path = INTERFACES) -> None:
        self._interfaces = interfaces

    def is_own(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether this machine has the address. No packet is sent.

        Raise `OSError` if this machine has no descriptors or memory for that.
        """
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        # The system chooses the source address of a connection to itself: it is the same address.
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((str(address), 9))
                return str(probe.getsockname()[0]) == str(address)
        except OSError as error:
            if is_machine_error(error):
                raise
            return False

    def is_on_link(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether the address is in an IPv6 network of this machine."""
        if isinstance(address, IPv4Address):
            return False
        try:
            return any(
                address in IPv6Interface((int(fields[0], 16), int(fields[2], 16))).network
                for fields in map(str.split, self._interfaces.read_text().splitlines())
            )
        except OSError as error:
            if is_machine_error(error):
                raise
            return False
