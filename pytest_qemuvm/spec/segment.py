"""What a network between machines is to be like: its addresses, and what goes wrong on its lines. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.seeds import checked_seed

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

_LABEL = r"[a-z0-9_-]{1,63}"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_LONGEST_HOST = 95
"""Characters of a name or a domain; both together fit into the 255 bytes that DNS has for a name."""
_LONGEST_DELAY = 600.0
"""Seconds. What is slower than that is no line any more; block it."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What a line does to the frames on it. Shares are from 0 to 1, times in seconds.

    ``loss``, ``duplicate`` and ``reorder`` are the shares of frames that get lost, come twice, or overtake
    those that are under way; there is nothing to overtake without a ``delay``. The delay of each frame is
    ``delay`` give or take up to ``jitter``; a frame waits for those before it unless it is to overtake.
    ``bandwidth`` is in bytes per second: what comes faster waits, and is dropped where too much waits
    already. With the same ``seed`` the same frames on a line meet the same fate; without one, a seed is
    chosen that can be read afterwards.
    """

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    bandwidth: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            share = _number(getattr(self, name), name)
            if not 0 <= share <= 1:
                hint = f"for {share:g} % write {name}={share / 100:g}" if 1 < share <= 100 else None
                raise SpecError(f"{name}={share!r} is not a share from 0 to 1", hint=hint)
        for name in ("delay", "jitter"):
            seconds = _number(getattr(self, name), name)
            if not 0 <= seconds <= _LONGEST_DELAY:
                raise SpecError(f"{name}={seconds!r} is not from 0 to {_LONGEST_DELAY:g} seconds")
        if self.jitter > self.delay:
            raise SpecError(
                f"jitter={self.jitter!r} is more than delay={self.delay!r}: frames cannot come early"
            )
        if self.reorder and not self.delay:
            raise SpecError(
                f"reorder={self.reorder!r} without a delay: there is nothing under way to be overtaken",
                hint="add delay=0.01",
            )
        if self.bandwidth is not None and not 1 <= _number(self.bandwidth, "bandwidth") < math.inf:
            raise SpecError(f"bandwidth={self.bandwidth!r} is not a number of bytes per second, from 1")
        checked_seed(self.seed)


@dataclass(frozen=True, slots=True)
class Addressing:
    """The addresses of a network, which the switch lends; it has one itself, ``gateway``.

    Left out, that is the first of the network. Names of machines are found with ``domain`` and without.
    """

    network: IPv4Network
    gateway: IPv4Address | None = None
    domain: str = "test"

    def __post_init__(self) -> None:
        from ipaddress import IPv4Address, IPv4Network  # noqa: PLC0415  # 2 ms that only a network should cost

        network: object = self.network
        if not isinstance(network, IPv4Network) or network.prefixlen > 30:
            raise SpecError(f"{network!r} is not an IPv4 network with room for two", hint="10.1.2.0/24")
        gateway: object = network[1] if self.gateway is None else self.gateway
        if not isinstance(gateway, IPv4Address):
            raise SpecError(f"gateway={gateway!r} is not an IPv4 address")
        object.__setattr__(self, "gateway", gateway)
        self.host(gateway, "gateway")
        object.__setattr__(self, "domain", checked_host(self.domain, "domain"))

    @property
    def station(self) -> IPv4Address:
        """The address of the switch itself."""
        assert self.gateway is not None
        return self.gateway

    def host(self, address: IPv4Address, what: str) -> IPv4Address:
        """Return the address if a machine of this network may have it. Raises SpecError."""
        ends = (self.network.network_address, self.network.broadcast_address)
        if address not in self.network or address in ends:
            raise SpecError(f"{what}: {address} is not the address of a machine in {self.network}")
        return address


def is_host(value: str) -> bool:
    """Return whether DNS can have such a name."""
    return bool(_HOST.fullmatch(value)) and len(value) <= _LONGEST_HOST


def checked_host(value: object, what: str) -> str:
    """Return a name that DNS can have, in lower case. Raises SpecError."""
    if not isinstance(value, str) or not is_host(value):
        raise SpecError(
            f"{value!r} is not a {what}", hint="letters, digits, '-' and '_', with dots between the parts"
        )
    return value.lower()


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise SpecError(f"{name}={value!r} is not a number")
    return value
