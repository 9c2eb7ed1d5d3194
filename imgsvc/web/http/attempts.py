"""Counts wrong API keys by the address that sent them."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """The limits of wrong API keys."""

    attempts: int = 10
    """Number of wrong keys that an address may send within `seconds`."""
    seconds: float = 60.0
    addresses: int = 10_000
    """Maximum number of addresses that are remembered: those that sent a wrong key last."""


class WrongKeys:
    """The times of the latest wrong keys of each address. Times are of any clock that never jumps."""

    def __init__(self, limits: AttemptLimits = AttemptLimits()) -> None:
        self._limits = limits
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def record(self, address: str, now: float) -> int:
        """Record a wrong key. Return 0, or the seconds to wait if it is one too many.

        A key that is one too many is not recorded, so that it does not extend the time to wait.
        """
        times = self._times.setdefault(address, deque())
        self._times.move_to_end(address)
        if len(self._times) > self._limits.addresses:
            self._times.popitem(last=False)
        while times and times[0] <= now - self._limits.seconds:
            times.popleft()
        if len(times) >= self._limits.attempts:
            return max(1, math.ceil(times[0] + self._limits.seconds - now))
        times.append(now)
        return 0

    def is_at_limit(self, address: str) -> bool:
        """Return whether the next wrong key of an address is one too many, unless time passes."""
        return len(self._times.get(address, ())) >= self._limits.attempts


def attempt_address(peer: str | None) -> str:
    """Return the address that the wrong keys of a client count for.

    That is its IPv4 address, or the /64 network of its IPv6 address: one client can use all of it.
    """
    try:
        address = ip_address((peer or "").partition("%")[0])
    except ValueError:
        return peer or ""
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))
