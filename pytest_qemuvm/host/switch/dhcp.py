"""DHCP messages (RFC 2131, 2132), read and written. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
SERVER_PORT, CLIENT_PORT = 67, 68
NOWHERE = b"\0\0\0\0"

MASK, DNS, HOSTNAME, DOMAIN, BROADCAST, WANTED, LEASE, OVERLOAD, KIND, SERVER, RENEW, REBIND, CLIENT_ID = (
    1, 6, 12, 15, 28, 50, 51, 52, 53, 54, 58, 59, 61,
)  # fmt: skip
"""Numbers of options."""

_HEAD = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_PAD, _END = 0, 255
_SHORTEST = 300
"""Bytes; some clients drop what is shorter, because BOOTP's messages were as long."""


class Message(NamedTuple):
    """What a client says."""

    kind: int
    transaction: int
    flags: int
    address: bytes
    """The address that the client has and uses, or nowhere."""
    relay: bytes
    mac: bytes
    options: Mapping[int, bytes]

    @property
    def broadcast(self) -> bool:
        """Whether the client cannot be reached by its address before it has it."""
        return bool(self.flags & 0x8000)

    def option(self, number: int) -> bytes | None:
        """Return an option that is an address, None if there is none."""
        value = self.options.get(number, b"")
        return value if len(value) == 4 else None


def message(data: bytes) -> Message | None:
    """Read what a client says; None for everything else."""
    if len(data) < _HEAD.size:
        return None
    head = _HEAD.unpack_from(data)
    operation, hardware, length = head[:3]
    if (operation, hardware, length, head[14]) != (1, 1, 6, _COOKIE):
        return None
    options: dict[int, bytes] = {}
    _add(options, data[_HEAD.size :])
    overloaded = options.pop(OVERLOAD, b"\0")[:1]
    for bit, field in ((1, head[13]), (2, head[12])):
        if overloaded and overloaded[0] & bit:
            _add(options, field)
    kind = options.get(KIND, b"")
    if len(kind) != 1:
        return None
    return Message(kind[0], head[4], head[6], head[7], head[10], head[11][:6], options)


def reply(asked: Message, kind: int, address: bytes, options: Mapping[int, bytes]) -> bytes:
    """Return a server's answer to a message; ``address`` is the one for the client."""
    used = asked.address if kind == ACK else NOWHERE
    hardware = asked.mac.ljust(16, b"\0")
    head = _HEAD.pack(
        2, 1, 6, 0, asked.transaction, 0, asked.flags, used, address, NOWHERE, asked.relay, hardware,
        b"", b"", _COOKIE,
    )  # fmt: skip
    given = {KIND: bytes([kind]), **options}
    client = asked.options.get(CLIENT_ID, b"")
    if 0 < len(client) < 256:  # RFC 6842: some clients look whether they are meant
        given[CLIENT_ID] = client
    body = b"".join(bytes([number, len(value)]) + value for number, value in given.items())
    return (head + body + bytes([_END])).ljust(_SHORTEST, b"\0")


def _add(options: dict[int, bytes], data: bytes) -> None:
    # RFC 3396: an option that is there twice is one that did not fit into one.
    for number, value in _parts(data):
        options[number] = options.get(number, b"") + value


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(data) and data[place] != _END:
        if data[place] == _PAD:
            place += 1
            continue
        if place + 1 >= len(data):
            return
        size = data[place + 1]
        value = data[place + 2 : place + 2 + size]
        if len(value) < size:
            return
        yield data[place], value
        place += 2 + size
