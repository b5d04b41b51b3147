"""MAC and IPv4 addresses, and subnets, as a test writes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import SpecError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network

# ipaddress takes 2 ms to import, which only those should pay who have a network.

FIRST_HOST = 10
"""The number in its subnet of the first address that is handed out; those below are for the tests to use."""
LEAST_HOSTS = 29
"""A subnet smaller than /27 has no room for addresses from FIRST_HOST on."""


_DEVICE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def checked_mac(value: object) -> str:
    """Return the MAC address of an interface in lower case. Raises SpecError."""
    mac = str(value).lower()
    if not _MAC.fullmatch(mac):
        raise SpecError(f"{value!r} is not a MAC address", hint="write '52:54:00:12:34:56'")
    if int(mac[:2], 16) & 1:
        raise SpecError(f"{value} is a multicast address, which no interface may have")
    return mac


def checked_device(value: object) -> str:
    """Return the name of a network device of the host. Raises SpecError for what Linux does not take."""
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise SpecError(
            f"{value!r} is not a name for a network device", hint="up to 15 letters, digits, '-', '_' or '.'"
        )
    return value


def parse_subnet(value: object) -> IPv4Network:
    """Return a subnet. Raises SpecError for what is none, or has no room for addresses to hand out."""
    from ipaddress import IPv4Network  # noqa: PLC0415  # see above

    try:
        subnet = IPv4Network(_text(value))
    except ValueError as error:
        raise SpecError(f"{value!r} is not an IPv4 subnet: {error}", hint="write '192.168.7.0/24'") from error
    if subnet.num_addresses - 2 < LEAST_HOSTS:
        raise SpecError(f"the subnet {subnet} is too small", hint="a /27 or larger")
    return subnet


def parse_address(value: object) -> IPv4Address:
    """Return an address. Raises SpecError for what is none."""
    from ipaddress import IPv4Address  # noqa: PLC0415  # see above

    try:
        return IPv4Address(_text(value))
    except ValueError as error:
        raise SpecError(f"{value!r} is not an IPv4 address: {error}", hint="write '192.168.7.5'") from error


def _text(value: object) -> str:
    """Return a string as it is: a number would be an address, too."""
    if not isinstance(value, str):
        raise ValueError("it is not a string")  # noqa: TRY004  # one error for all that is wrong with it
    return value
