"""The one thing that the switch says about IPv6: that there is no router. Pure.

The boot ROM (iPXE) asks for one beside DHCP, and goes on when it has both answers, or after 16 seconds.
"""

from __future__ import annotations

import struct

from pytest_qemuvm.host.switch import frames

_IPV6, _ICMPV6 = 0x86DD, 58
_SOLICITATION, _ADVERTISEMENT = 133, 134
_HOPS = 255
"""What such a packet has when no router has handed it on."""
_LINK_LOCAL = bytes.fromhex("fe80000000000000")
_HEAD = struct.Struct("!IHBB16s16s")


def no_router(frame: bytes, own: bytes) -> bytes | None:
    """Return the answer to who asks for a router from an address of his: that it is none of ``own``.

    An advertisement with a lifetime of 0 and without a prefix: nobody gets an address or a route by it. None
    for any other frame.
    """
    heard = frames.ethernet(frame)
    if heard is None or heard.kind != _IPV6 or len(heard.payload) < _HEAD.size + 8:
        return None
    first, size, kind, hops, source, target = _HEAD.unpack_from(heard.payload)
    data = heard.payload[_HEAD.size : _HEAD.size + size]
    if first >> 28 != 6 or (kind, hops) != (_ICMPV6, _HOPS) or source[:8] != _LINK_LOCAL:
        return None
    if len(data) < max(size, 8) or data[0] != _SOLICITATION or _checksum(source, target, data):
        return None
    address = _LINK_LOCAL + bytes((own[0] ^ 2, *own[1:3], 0xFF, 0xFE, *own[3:]))
    answer = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0)
    answer = answer[:2] + struct.pack("!H", _checksum(address, source, answer)) + answer[4:]
    packet = _HEAD.pack(6 << 28, len(answer), _ICMPV6, _HOPS, address, source) + answer
    return frames.Ethernet(heard.source, own, _IPV6, packet).encoded()


def _checksum(source: bytes, target: bytes, data: bytes) -> int:
    return frames.checksum(source + target + struct.pack("!II", len(data), _ICMPV6) + data)
