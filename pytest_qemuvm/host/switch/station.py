"""The switch's own station on a segment: it answers for its own address, lends addresses and knows names."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pytest_qemuvm.host.switch import dhcp, dns, frames
from pytest_qemuvm.host.switch.leases import Leases

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from ipaddress import IPv4Address

    from pytest_qemuvm.host.switch.exchange import Exchange
    from pytest_qemuvm.spec.segment import Addressing

_LEASE = 86400
"""Seconds. Machines that stand still for longer ask again."""
_EVERYBODY = b"\xff" * 4
_UNKNOWN = b"\0" * 6


def station_mac(segment: str) -> bytes:
    """Return the address of a segment's station, from QEMU's range."""
    return b"\x52\x54\x00" + hashlib.blake2s(segment.encode(), digest_size=3).digest()


class Station:
    """Answers to frames. What it says by itself is its services', and questions that somebody else has asked.

    With ``lends=False`` it has an address for its services, and lends none: somebody else does.
    """

    def __init__(
        self,
        segment: str,
        addressing: Addressing,
        beside: Callable[[], Iterable[Leases]] = tuple,
        *,
        lends: bool = True,
    ) -> None:
        self.mac = station_mac(segment)
        self.leases = Leases(addressing)
        self.address = addressing.station
        self._addressing = addressing
        self._address = addressing.station.packed
        self._beside = beside
        """Return the books of all segments: a machine in several asks one station for the names of all."""
        self._lends = lends
        self.exchange: Exchange | None = None
        """Its services."""
        self._sought: dict[bytes, list[Callable[[bytes], object]]] = {}

    def hear(self, frame: bytes) -> bytes | None:
        """Return the answer to a frame that is for the station, or for all; None if there is none."""
        heard = frames.ethernet(frame)
        if heard is not None and heard.kind == frames.ARP:
            return self._hear_arp(heard)
        packet = frames.ipv4(heard.payload) if heard is not None and heard.kind == frames.IPV4 else None
        if heard is None or packet is None or packet.target not in (self._address, _EVERYBODY):
            return None
        return self._hear_ip(heard, packet)

    def question(self, address: IPv4Address) -> bytes:
        """Return the frame that asks everybody who has an address."""
        asks = frames.Arp(frames.ASKS, self.mac, self._address, _UNKNOWN, address.packed)
        return frames.Ethernet(frames.BROADCAST, self.mac, frames.ARP, asks.encoded()).encoded()

    def lost(self, macs: Collection[bytes]) -> None:
        """Note that machines have gone."""
        if self.exchange is not None:
            self.exchange.lost(macs)

    def close(self) -> None:
        """End its services."""
        if self.exchange is not None:
            self.exchange.close()

    def seek(self, address: IPv4Address, found: Callable[[bytes], object]) -> None:
        """Have somebody called with the MAC address of whoever says to the station that he has an address."""
        self._sought.setdefault(address.packed, []).append(found)

    def give_up(self, address: IPv4Address, found: Callable[[bytes], object]) -> None:
        """Have him called no more."""
        seekers = self._sought.get(address.packed, [])
        if found in seekers:
            seekers.remove(found)
        if not seekers:
            self._sought.pop(address.packed, None)

    def _hear_ip(self, heard: frames.Ethernet, packet: frames.Packet) -> bytes | None:
        datagram = frames.udp(packet) if self._lends else None
        if datagram is not None and datagram.target == dhcp.SERVER_PORT:
            return self._hear_dhcp(datagram)
        if packet.target != self._address or heard.destination != self.mac:
            return None
        if datagram is not None and datagram.target == dns.PORT:
            answer = self._hear_dns(datagram, heard.source)
            return answer and self._udp(heard.source, packet.source, dns.PORT, datagram.source, answer)
        if packet.protocol in (frames.TCP, frames.UDP):
            if self.exchange is not None:
                self.exchange.hear(heard, packet)
            return None
        echo = frames.echo_reply(packet)
        return echo and self._ip(heard.source, frames.Packet(self._address, packet.source, frames.ICMP, echo))

    def _hear_arp(self, heard: frames.Ethernet) -> bytes | None:
        packet = frames.arp(heard.payload)
        if packet is None or packet.sender_mac == self.mac:
            return None
        if packet.operation == frames.ANSWERS and packet.target == self._address:
            for found in self._sought.pop(packet.sender, ()):
                found(packet.sender_mac)
        if (
            packet.operation != frames.ASKS
            or packet.target != self._address
            or packet.sender == self._address
        ):
            return None
        answer = frames.Arp(frames.ANSWERS, self.mac, self._address, packet.sender_mac, packet.sender)
        return frames.Ethernet(heard.source, self.mac, frames.ARP, answer.encoded()).encoded()

    def _hear_dns(self, datagram: frames.Datagram, asker: bytes) -> bytes | None:
        asked = dns.query(datagram.payload)
        if asked is None:
            return None
        if asked.problem:
            return dns.reply(asked, asked.problem)
        addresses = self._addresses(asker, asked.name)
        if addresses is not None:
            fitting = addresses if asked.kind in (dns.A, dns.ANY) else []
            return dns.reply(asked, dns.NO_ERROR, dns.A, [address.packed for address in fitting])
        names = [dns.encoded(name) for name in self.leases.names(asked.name)]
        if names:
            fitting_names = names if asked.kind in (dns.PTR, dns.ANY) else []
            return dns.reply(asked, dns.NO_ERROR, dns.PTR, fitting_names)
        return dns.reply(asked, dns.NO_SUCH_NAME)

    def _addresses(self, asker: bytes, name: dns.Name) -> list[IPv4Address] | None:
        """Return the addresses under a name, here or in the other segments that a machine is in, too.

        The name of the host is that of a machine which is called so, if there is one.
        """
        asks = self.leases.host_name(asker)
        books = [self.leases]
        if asks is not None:
            books += [book for book in self._beside() if book is not self.leases and book.has(asks)]
        found = (*(book.addresses(name) for book in books), *(book.own(name) for book in books))
        return next((addresses for addresses in found if addresses is not None), None)

    def _hear_dhcp(self, datagram: frames.Datagram) -> bytes | None:
        asked = dhcp.message(datagram.payload)
        if asked is None or asked.relay != dhcp.NOWHERE:
            return None
        if (asked.option(dhcp.SERVER) or self._address) != self._address:
            return None  # the client talks to another server
        match asked.kind:
            case dhcp.DISCOVER:
                return self._lend(asked, dhcp.OFFER)
            case dhcp.REQUEST:
                return self._confirm(asked)
            case dhcp.INFORM if asked.address != dhcp.NOWHERE:
                return self._answer(asked, dhcp.ACK, dhcp.NOWHERE, self._about(asked.mac))
            case dhcp.RELEASE:
                self.leases.give_back(asked.mac)
            case dhcp.DECLINE:
                self.leases.refuse(asked.mac)
        return None

    def _confirm(self, asked: dhcp.Message) -> bytes | None:
        """Answer a client that wants an address, or wants to go on using it."""
        wanted = asked.option(dhcp.WANTED) or asked.address
        address = self.leases.address_of(asked.mac)
        if address is None or wanted != address.packed:
            return self._answer(asked, dhcp.NAK, dhcp.NOWHERE, {})
        return self._lend(asked, dhcp.ACK)

    def _lend(self, asked: dhcp.Message, kind: int) -> bytes | None:
        address = self.leases.address_of(asked.mac)
        if address is None:
            return None
        times = ((dhcp.LEASE, _LEASE), (dhcp.RENEW, _LEASE // 2), (dhcp.REBIND, _LEASE * 7 // 8))
        options = {number: seconds.to_bytes(4, "big") for number, seconds in times}
        return self._answer(asked, kind, address.packed, {**options, **self._about(asked.mac)})

    def _about(self, mac: bytes) -> dict[int, bytes]:
        """Return what a client should know. No router: there is no way out of the segment."""
        network = self._addressing.network
        about = {
            dhcp.MASK: network.netmask.packed,
            dhcp.BROADCAST: network.broadcast_address.packed,
            dhcp.DNS: self._address,
            dhcp.DOMAIN: self._addressing.domain.encode(),
        }
        name = self.leases.host_name(mac)
        return about if name is None else {**about, dhcp.HOSTNAME: name.encode()}

    def _answer(self, asked: dhcp.Message, kind: int, address: bytes, options: dict[int, bytes]) -> bytes:
        payload = dhcp.reply(asked, kind, address, {dhcp.SERVER: self._address, **options})
        mac, target = asked.mac, asked.address if asked.address != dhcp.NOWHERE else address
        if kind == dhcp.NAK or (asked.broadcast and asked.address == dhcp.NOWHERE):
            mac, target = frames.BROADCAST, _EVERYBODY
        return self._udp(mac, target, dhcp.SERVER_PORT, dhcp.CLIENT_PORT, payload)

    def _udp(self, mac: bytes, target: bytes, source_port: int, target_port: int, payload: bytes) -> bytes:
        datagram = frames.Datagram(source_port, target_port, payload).encoded(self._address, target)
        return self._ip(mac, frames.Packet(self._address, target, frames.UDP, datagram))

    def _ip(self, mac: bytes, packet: frames.Packet) -> bytes:
        return frames.Ethernet(mac, self.mac, frames.IPV4, packet.encoded()).encoded()
