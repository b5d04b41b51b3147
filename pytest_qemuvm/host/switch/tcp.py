"""TCP's segments (RFC 9293), read and written, and its numbers, which begin again after 2**32. Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pytest_qemuvm.host.switch import frames

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
"""Flags."""
MSS = 1460
"""Bytes of data in a frame of 1,514, which is what every guest takes unless told otherwise."""
MSS_UNSAID = 536
"""What one takes who does not say."""
_LEAST_MSS = 64
_MOST_SCALE = 14
_END, _NOTHING, _MSS, _SCALE = 0, 1, 2, 3
_HEAD = struct.Struct("!HHIIBBHHH")
_ALL, _HALF = 1 << 32, 1 << 31


class TcpSegment(NamedTuple):
    """A segment; ``mss`` and ``scale`` are said with SYN only."""

    source: int
    target: int
    sequence: int
    acknowledged: int
    flags: int
    window: int
    payload: bytes = b""
    mss: int | None = None
    scale: int | None = None

    @property
    def size(self) -> int:
        """How many numbers it takes: SYN and FIN have one each, as a byte has."""
        return len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)

    def encoded(self, source: bytes, target: bytes) -> bytes:
        """Return it as it is sent between two addresses."""
        options = b"" if self.mss is None else struct.pack("!BBH", _MSS, 4, self.mss)
        if self.scale is not None:
            options += bytes([_NOTHING, _SCALE, 3, self.scale])
        size = _HEAD.size + len(options)
        numbers = self.sequence % _ALL, self.acknowledged % _ALL
        head = _HEAD.pack(self.source, self.target, *numbers, size << 2, self.flags, self.window, 0, 0)
        data = head + options + self.payload
        summed = frames.checksum(frames.pseudo(source, target, frames.TCP, len(data)) + data)
        return data[:16] + summed.to_bytes(2) + data[18:]


def segment(packet: frames.Packet) -> TcpSegment | None:
    """Read the segment in a packet; None for what is not whole and right."""
    data = packet.payload
    if packet.protocol != frames.TCP or len(data) < _HEAD.size:
        return None
    source, target, sequence, acknowledged, size, flags, window, _, _ = _HEAD.unpack_from(data)
    size = (size >> 4) * 4
    if not _HEAD.size <= size <= len(data):
        return None
    if frames.checksum(frames.pseudo(packet.source, packet.target, frames.TCP, len(data)) + data):
        return None
    mss = scale = None
    if flags & SYN:
        mss, scale = _options(data[_HEAD.size : size])
    return TcpSegment(source, target, sequence, acknowledged, flags, window, data[size:], mss, scale)


def _options(data: bytes) -> tuple[int | None, int | None]:
    """Return the greatest segment that the other end takes, and the shift of its windows."""
    mss = scale = None
    place = 0
    while place < len(data) and data[place] != _END:
        if data[place] == _NOTHING:
            place += 1
            continue
        size = data[place + 1] if place + 1 < len(data) else 0
        value = data[place + 2 : place + size]
        if size < 2 or len(value) < size - 2:
            break
        if data[place] == _MSS and len(value) == 2:
            mss = max(int.from_bytes(value), _LEAST_MSS)
        if data[place] == _SCALE and len(value) == 1:
            scale = min(value[0], _MOST_SCALE)
        place += size
    return mss, scale


def near(number: int, known: int) -> int:
    """Return what a segment says as a number that does not begin again: the nearest to one that is known."""
    return known + (number - known + _HALF) % _ALL - _HALF


def refusal(heard: TcpSegment) -> TcpSegment | None:
    """Return what tells the other end that there is no such connection; None where nothing may be said."""
    if heard.flags & RST:
        return None
    if heard.flags & ACK:
        return TcpSegment(heard.target, heard.source, heard.acknowledged, 0, RST, 0)
    return TcpSegment(heard.target, heard.source, 0, heard.sequence + heard.size, RST | ACK, 0)
