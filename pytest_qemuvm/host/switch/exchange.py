"""A station's services: which connection a packet of a guest's is of, and the answer where there is none."""

from __future__ import annotations

import errno
import secrets
import time
from typing import TYPE_CHECKING

from pytest_qemuvm.host.switch import frames, tcp
from pytest_qemuvm.host.switch.flows import Flows
from pytest_qemuvm.host.switch.relay import Relay
from pytest_qemuvm.host.switch.tcp_connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pytest_qemuvm.host.switch.reactor import Reactor
    from pytest_qemuvm.host.switch.services import Desk, Services

MOST = 512
"""Connections at one time. Each may hold 256 KiB."""
Key = tuple[bytes, int, int]
"""A guest's address, its port, and the service's."""


class Exchange:
    """The connections of one station. Everything here runs on the reactor's thread."""

    def __init__(
        self,
        reactor: Reactor,
        transmit: Callable[[bytes], object],
        mac: bytes,
        address: bytes,
        services: Services,
    ) -> None:
        self.reactor = reactor
        self.now = time.monotonic
        self._transmit = transmit
        self._mac = mac
        self._address = address
        self._services = services
        self._relays: dict[Key, Relay] = {}
        """Those that guests' segments may be of."""
        self._alive: set[Relay] = set()
        """These, and those whose guests have ended while the host still reads."""
        self._flows = Flows(reactor, services, self._answer)
        self._touched: set[Relay] = set()

    def hear(self, heard: frames.Ethernet, packet: frames.Packet) -> None:
        """Take in a packet for the station's address that is TCP's or UDP's."""
        if packet.protocol == frames.UDP:
            datagram = frames.udp(packet)
            if datagram is not None:
                self._flows.hear(heard.source, packet.source, datagram)
            return
        segment = tcp.segment(packet)
        if segment is None:
            return
        key = packet.source, segment.source, segment.target
        relay = self._relays.get(key)
        asks = segment.flags & (tcp.SYN | tcp.ACK | tcp.RST) == tcp.SYN
        if relay is not None and (relay.connection.phase == "closed" or (asks and relay.connection.is_over)):
            del self._relays[key]
            relay = None
        if relay is None and asks:
            self._open(key, heard.source, segment)
        elif relay is None:
            self._refuse(heard.source, packet.source, segment)
        else:
            relay.mac = heard.source
            relay.connection.hear(segment, self.now())
            self.touch(relay)

    def touch(self, relay: Relay) -> None:
        """Have a connection go on when all has been heard that has come by now."""
        if not self._touched:
            self.reactor.at(0.0, self._go_on)
        self._touched.add(relay)

    def send(self, relay: Relay, segment: tcp.TcpSegment) -> None:
        """Send a segment of a connection's to its guest."""
        self._say(relay.mac, relay.key[0], segment)

    def lost(self, macs: Collection[bytes]) -> None:
        """End the connections of machines that have gone; nobody is left to be told."""
        for relay in [relay for relay in self._alive if relay.mac in macs]:
            self._forget(relay)
        self._flows.lost(macs)

    def part(self, macs: Collection[bytes]) -> None:
        """End the connections of machines that are not what they were a moment ago, and tell them.

        What they have of the connection now only they know. They say it when they are asked, and are told
        then that nobody here knows of it.
        """
        for relay in [relay for relay in self._alive if relay.mac in macs]:
            if relay.connection.phase not in ("opening", "closed"):
                self.send(relay, relay.connection.probe())
            self._forget(relay)

    def withdraw(self, desk: Desk) -> None:
        """Reset the connections to a service."""
        for relay in [relay for relay in self._alive if relay.desk is desk]:
            relay.connection.abort()
            relay.turn(self.now())
            self._forget(relay)
        self._flows.withdraw(desk)

    def close(self) -> None:
        """End everything."""
        for relay in tuple(self._alive):
            self._forget(relay)
        self._flows.close()

    def _open(self, key: Key, mac: bytes, asked: tcp.TcpSegment) -> None:
        desk = self._services.find("tcp", asked.target)
        if desk is None or not self._has_room():
            self._refuse(mac, key[0], asked)
            return
        try:
            sock, problem = desk.connect()
        except OSError:  # the host has no more descriptors, for example
            self._refuse(mac, key[0], asked)
            return
        if problem == errno.EAGAIN:  # what listens on a unix socket is busy: the guest asks again
            sock.close()
            return
        if problem not in (0, errno.EINPROGRESS):
            sock.close()
            self._refuse(mac, key[0], asked)
            return
        now = self.now()
        relay = Relay(self, key, mac, desk, Connection(asked, secrets.randbits(32), now), sock)
        self._relays[key] = relay
        self._alive.add(relay)
        if not problem:
            relay.connected(now)
        self.touch(relay)

    def _has_room(self) -> bool:
        if len(self._alive) < MOST:
            return True
        lingering = next((relay for relay in self._alive if relay.is_idle), None)
        if lingering is not None:
            self._forget(lingering)
        return lingering is not None

    def _go_on(self) -> None:
        touched, self._touched = self._touched, set()
        for relay in touched:
            relay.turn(self.now())
            if relay.is_over:
                self._remove(relay)

    def _forget(self, relay: Relay) -> None:
        relay.abandon()
        self._remove(relay)

    def _remove(self, relay: Relay) -> None:
        self._alive.discard(relay)
        if self._relays.get(relay.key) is relay:
            del self._relays[relay.key]

    def _refuse(self, mac: bytes, ip: bytes, segment: tcp.TcpSegment) -> None:
        answer = tcp.refusal(segment)
        if answer is not None:
            self._say(mac, ip, answer)

    def _say(self, mac: bytes, ip: bytes, segment: tcp.TcpSegment) -> None:
        self._packet(mac, frames.Packet(self._address, ip, frames.TCP, segment.encoded(self._address, ip)))

    def _answer(self, mac: bytes, ip: bytes, datagram: frames.Datagram) -> None:
        self._packet(mac, frames.Packet(self._address, ip, frames.UDP, datagram.encoded(self._address, ip)))

    def _packet(self, mac: bytes, packet: frames.Packet) -> None:
        self._transmit(frames.Ethernet(mac, self._mac, frames.IPV4, packet.encoded()).encoded())
