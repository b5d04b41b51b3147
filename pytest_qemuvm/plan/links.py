"""Which commands of iproute2 make a network of the host's devices. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Words = tuple[str, ...]

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def device_name(tag: str, number: int) -> str:
    """Return the name of a session's network device: its tag, which no other session has, and two characters.

    That makes 15, which is as long as Linux lets it be. Raises ValueError where two do not count so far.
    """
    high, low = divmod(number, len(_DIGITS))
    if high >= len(_DIGITS):
        raise ValueError(f"{number} is more than two characters count")
    return f"{tag}{_DIGITS[high]}{_DIGITS[low]}"


def bridge(device: str, alias: str, address: str | None) -> Iterator[Words]:
    """Yield what makes a bridge; ``address`` is the host's there, with the length of its network's part."""
    yield ("ip", "link", "add", "name", device, "type", "bridge", "stp_state", "0", "forward_delay", "0")
    yield from _named(device, alias)
    if address is not None:
        yield ("ip", "addr", "add", address, "dev", device)
    yield ("ip", "link", "set", "dev", device, "up")


def tap_on_bridge(device: str, alias: str, onto: str) -> Iterator[Words]:
    """Yield what makes a TAP for a NIC on a bridge."""
    yield ("ip", "tuntap", "add", "dev", device, "mode", "tap")
    yield from _named(device, alias)
    yield ("ip", "link", "set", "dev", device, "master", onto)
    yield ("ip", "link", "set", "dev", device, "up")


def tap_alone(device: str, alias: str, address: str | None, guest: str | None) -> Iterator[Words]:
    """Yield what makes a TAP for a NIC that has nobody but the host at its other end.

    Several may have the host's one address: only the way to its own guest leads into each.
    """
    yield ("ip", "tuntap", "add", "dev", device, "mode", "tap")
    yield from _named(device, alias)
    if address is not None:
        yield ("ip", "addr", "add", f"{address}/32", "dev", device)
    yield ("ip", "link", "set", "dev", device, "up")
    if guest is not None:
        yield ("ip", "route", "add", f"{guest}/32", "dev", device)


def removal(device: str) -> Words:
    """Return what removes a device."""
    return ("ip", "link", "delete", "dev", device)


def _named(device: str, alias: str) -> Iterator[Words]:
    """Yield what marks a device as the session's, and keeps the host from talking on it unasked."""
    yield ("ip", "link", "set", "dev", device, "alias", alias)
    yield ("ip", "link", "set", "dev", device, "addrgenmode", "none")
