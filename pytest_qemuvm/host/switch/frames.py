"""Frames as values: Ethernet, ARP, IPv4, UDP and ICMP echo, read and written. TCP is in ``tcp.py``. Pure.

Reading returns None for everything that is not whole and right: a frame is whatever a machine sends.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

BROADCAST = b"\xff" * 6
ARP, IPV4 = 0x0806, 0x0800
ICMP, TCP, UDP = 1, 6, 17
ASKS, ANSWERS = 1, 2
"""What an ARP packet does."""
_ARP_ETHERNET = struct.pack("!HHBB", 1, IPV4, 6, 4)
_MORE_OR_OFFSET = 0x3FFF
"""The bits of a packet that is a part of one."""
_LIFE = 64


class Ethernet(NamedTuple):
    """A frame; ``kind`` says what is in it."""

    destination: bytes
    source: bytes
    kind: int
    payload: bytes

    def encoded(self) -> bytes:
        """Return it as it is sent, at least 60 bytes as on a wire."""
        head = struct.pack("!6s6sH", self.destination, self.source, self.kind)
        return (head + self.payload).ljust(60, b"\0")


class Arp(NamedTuple):
    """Who has an IP address, or that somebody has it."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes

    def encoded(self) -> bytes:
        """Return it as it is sent."""
        return _ARP_ETHERNET + struct.pack("!H6s4s6s4s", *self)


class Packet(NamedTuple):
    """An IPv4 packet that is whole."""

    source: bytes
    target: bytes
    protocol: int
    payload: bytes

    def encoded(self) -> bytes:
        """Return it as it is sent."""
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(self.payload), 0, 0, _LIFE, self.protocol, 0)
        head += self.source + self.target
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + self.payload


class Datagram(NamedTuple):
    """A UDP datagram."""

    source: int
    target: int
    payload: bytes

    def encoded(self, source: bytes, target: bytes) -> bytes:
        """Return it as it is sent between two addresses."""
        head = struct.pack("!HHH", self.source, self.target, 8 + len(self.payload))
        covered = pseudo(source, target, UDP, 8 + len(self.payload)) + head + b"\0\0" + self.payload
        summed = checksum(covered)
        return head + struct.pack("!H", summed or 0xFFFF) + self.payload


def ethernet(frame: bytes) -> Ethernet | None:
    """Read a frame."""
    if len(frame) < 14:
        return None
    destination, source, kind = struct.unpack_from("!6s6sH", frame)
    return Ethernet(destination, source, kind, frame[14:])


def arp(payload: bytes) -> Arp | None:
    """Read an ARP packet for IPv4 on Ethernet."""
    if len(payload) < 28 or payload[:6] != _ARP_ETHERNET:
        return None
    return Arp(*struct.unpack_from("!H6s4s6s4s", payload, 6))


def ipv4(payload: bytes) -> Packet | None:
    """Read an IPv4 packet that is no fragment."""
    if len(payload) < 20 or payload[0] >> 4 != 4:
        return None
    head = (payload[0] & 15) * 4
    (size,) = struct.unpack_from("!H", payload, 2)
    (part,) = struct.unpack_from("!H", payload, 6)
    if not 20 <= head <= size <= len(payload) or part & _MORE_OR_OFFSET or checksum(payload[:head]):
        return None
    return Packet(payload[12:16], payload[16:20], payload[9], payload[head:size])


def udp(packet: Packet) -> Datagram | None:
    """Read the UDP datagram in a packet."""
    data = packet.payload
    if packet.protocol != UDP or len(data) < 8:
        return None
    source, target, size, summed = struct.unpack_from("!HHHH", data)
    if not 8 <= size <= len(data):
        return None
    data = data[:size]
    if summed and checksum(pseudo(packet.source, packet.target, UDP, size) + data):
        return None
    return Datagram(source, target, data[8:])


def echo_reply(packet: Packet) -> bytes | None:
    """Return the answer to the ICMP echo request in a packet; None if there is none."""
    data = packet.payload
    if packet.protocol != ICMP or len(data) < 8 or data[:2] != b"\x08\0" or checksum(data):
        return None
    answer = b"\0\0\0\0" + data[4:]
    return answer[:2] + struct.pack("!H", checksum(answer)) + answer[4:]


def checksum(data: bytes) -> int:
    """Return the Internet's checksum: 0 over data that has its own checksum in it."""
    if len(data) % 2:
        data += b"\0"
    # To carry over what does not fit into 16 bits is to divide by 65535; one division is the quickest way.
    number = int.from_bytes(data)
    rest = number % 0xFFFF
    return 0xFFFF - rest if rest or not number else 0


def mac_bytes(mac: str) -> bytes:
    """Return a MAC address as frames have it."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(mac: bytes) -> str:
    """Return a MAC address as people write it."""
    return mac.hex(":")


def pseudo(source: bytes, target: bytes, protocol: int, size: int) -> bytes:
    """Return what a checksum covers besides UDP's or TCP's own bytes."""
    return source + target + struct.pack("!BBH", 0, protocol, size)
