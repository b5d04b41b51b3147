"""A network between machines, as the harness holds it: its ports, its rules, its recordings."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import AddressInUse, HostFileError, QemuVMError, SpecError
from pytest_qemuvm.host.switch import dhcp, dns, frames, pcap
from pytest_qemuvm.host.switch.exchange import Exchange
from pytest_qemuvm.host.switch.fabric import Fabric
from pytest_qemuvm.host.switch.handles import Capture, Port, Rule
from pytest_qemuvm.host.switch.jack import Jack
from pytest_qemuvm.host.switch.leases import Member
from pytest_qemuvm.host.switch.services import Services
from pytest_qemuvm.host.switch.stages import Block, Impaired, Partition
from pytest_qemuvm.host.switch.station import Station, station_mac
from pytest_qemuvm.spec.addresses import checked_mac, parse_address
from pytest_qemuvm.spec.segment import checked_host

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from ipaddress import IPv4Address
    from pathlib import Path

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.switch.leases import Leases
    from pytest_qemuvm.host.switch.reactor import Reactor
    from pytest_qemuvm.host.switch.services import Service
    from pytest_qemuvm.host.switch.stages import Stage
    from pytest_qemuvm.spec.segment import Addressing, Impairment
    from pytest_qemuvm.spec.services import Offer

_ASK_AGAIN = 0.1
"""Seconds between two questions of a probe: a machine that boots does not hear the first ones."""


class Segment:
    """One Ethernet. Every method may be called from any thread, while frames flow; it holds when it returns.

    Without addressing the switch only switches. With it, it has an address of its own, and answers ARP,
    pings, DHCP and DNS there. With the ``services`` of another network it has an address for them only.
    """

    def __init__(
        self,
        reactor: Reactor,
        name: str,
        addressing: Addressing | None,
        beside: Callable[[], Iterable[Leases]] = tuple,
        services: Services | None = None,
    ) -> None:
        self.name = name
        self.addressing = addressing
        self._reactor = reactor
        self._station = (
            None if addressing is None else Station(name, addressing, beside, lends=services is None)
        )
        self._fabric = Fabric(reactor, self._station)
        self._own: Services | None = None
        if self._station is not None:
            if services is None:
                services = self._own = Services(reactor, str(self._station.address))
            self._offer(self._station, services)
        self._services = services
        self._ports: tuple[Port, ...] = ()
        self._captures: tuple[Capture, ...] = ()
        self.closed = False

    @property
    def services(self) -> Services | None:
        """What it offers of the host's; None where it has no address, or the services are another's."""
        return self._own

    @property
    def leases(self) -> Leases | None:
        """The book of its addresses, for the switch's thread; None where it lends none."""
        return None if self._station is None or self._own is None else self._station.leases

    @property
    def ports(self) -> tuple[Port, ...]:
        """The ports that are not closed, the oldest first."""
        return tuple(port for port in self._ports if not port.closed)

    def connect(self, label: str, mac: str, ip: str | None, names: tuple[str, ...] = ()) -> Port:
        """Make a port for a machine's interface.

        ``ip`` is the address that DHCP gives it, and under which its names are found; None lets one be
        chosen. Raises SpecError for what cannot be, and what another port has.
        """
        mac = checked_mac(mac)
        address = None if ip is None else self._checked_host_address(ip)
        names = tuple(checked_host(name, "name of a machine") for name in names)
        member = Member(frames.mac_bytes(mac), address, names)
        own = () if self._station is None else (self._station.mac, self._station.address)
        if member.mac in own or address in own:
            raise SpecError(f"{label}: the network {self.name} itself has the address {mac} or {ip}")
        port = Port(self._reactor, self._fabric, Jack(self._fabric, label), mac, ip, names)

        def plug() -> None:
            if self.closed:
                raise QemuVMError(f"{label}: the network {self.name} is closed")
            for other in self.ports:
                if label == other.label or mac == other.mac or (ip is not None and ip == other.ip):
                    raise SpecError(
                        f"{label}: {other.label} in the network {self.name} has the same label, MAC or IP",
                        f"{label}: {mac} {ip}; {other.label}: {other.mac} {other.ip}",
                    )
            self._fabric.plug(port.jack)
            if self._station is not None:
                self._station.leases.join(member)
            self._ports = (*self.ports, port)

        self._reactor.start()
        self._reactor.call(plug)
        return port

    def serve(self, offer: Offer) -> Service:
        """Have machines reach a service of the host's at the switch's own address.

        Raises AddressInUse for a port that is taken, SpecError where the switch has no address.
        """
        services = self.services
        if services is None:
            raise SpecError(f"the network {self.name} has no address at which something could be served")
        if offer.protocol == "udp" and offer.port in (dns.PORT, dhcp.SERVER_PORT):
            raise AddressInUse(
                f"{offer} of {services.ip} is the network's own",
                "names are resolved and addresses are handed out there",
                holder=f"network {self.name}",
            )
        return services.serve(offer)

    def deny_router(self, port: Port) -> None:
        """Have the machine at a port told, whenever it asks, that there is no IPv6 router."""
        port.jack.no_router = station_mac(self.name)

    def partition(self, sides: Sequence[Collection[Port]]) -> Rule:
        """Drop what goes from one side to another. Ports on no side talk to everybody."""
        jacks = [self._jacks(side, "a side") for side in sides]
        if len(jacks) < 2:
            raise SpecError(f"a partition of {self.name} takes two sides at least, not {len(jacks)}")
        if sum(map(len, jacks)) != len(set().union(*jacks)):
            raise SpecError(f"a partition of {self.name} has a port on two sides")
        return self._add(Partition(jacks))

    def block(self, source: Collection[Port], target: Collection[Port]) -> Rule:
        """Drop what goes from one of the sources to one of the targets, and not what comes back."""
        return self._add(Block(self._jacks(source, "source"), self._jacks(target, "target")))

    def impair(
        self, impairment: Impairment, source: Collection[Port] | None, target: Collection[Port] | None
    ) -> Rule:
        """Make each line from a source to a target bad; None is everybody.

        Every pair of ports has a line of its own each way: a bandwidth is that of each. Several rules for one
        line follow one another, the oldest first.
        """
        from_ = None if source is None else self._jacks(source, "source")
        to = None if target is None else self._jacks(target, "target")
        return self._add(Impaired(self._fabric, impairment, from_, to))

    def capture(self, path: Path, port: Port | None = None) -> Capture:
        """Write frames into a pcap file until that is closed.

        Without a port these are all that come from machines and from the switch's station, before any rule;
        with one, those that come from its machine and those that are given to it. Raises HostFileError.
        """
        if port is not None:
            self._jacks([port], "port")
        try:
            file = path.open("wb")
        except OSError as error:
            raise HostFileError(f"no capture of {self.name} can be written", str(error)) from error
        writer = pcap.Writer(file)
        place = self._fabric.captures if port is None else port.jack.captures
        try:
            self._reactor.call(lambda: place.append(writer))
        except BaseException:
            writer.close()
            raise
        capture = Capture(self._reactor, place, writer, path)
        self._captures = (*(other for other in self._captures if not other.closed), capture)
        return capture

    def write_recent(self, path: Path) -> int:
        """Write the last frames, about a mebibyte, into a pcap file; return how many.

        Raises HostFileError.
        """
        recent = self._reactor.call(self._fabric.ring.frames)
        try:
            path.write_bytes(pcap.contents(recent))
        except OSError as error:
            raise HostFileError(f"the last frames of {self.name} cannot be written", str(error)) from error
        return len(recent)

    def probe(self, ip: str, deadline: Deadline) -> str | None:
        """Ask by ARP who has the address until somebody answers; return the MAC, None at the deadline.

        Rules are for machines and do not keep the switch from asking. Raises SpecError for an address that is
        not of this network, or if that has none.
        """
        address = self._checked_host_address(ip)
        station, fabric = self._station, self._fabric
        if station is None or self.addressing is None:
            raise SpecError(f"the network {self.name} has no addresses", hint="give it Addressing(...)")
        if address == self.addressing.station:
            return frames.mac_text(station.mac)
        answers: list[bytes] = []
        answered = threading.Event()

        def found(mac: bytes) -> None:
            answers.append(mac)
            answered.set()

        def ask() -> None:
            if not answered.is_set():
                fabric.send(station.question(address))
                self._reactor.at(time.monotonic() + _ASK_AGAIN, ask)

        def begin() -> None:
            station.seek(address, found)
            ask()

        def end() -> None:
            station.give_up(address, found)
            answered.set()

        try:
            self._reactor.call(begin)
            answered.wait(deadline.remaining)
        finally:
            self._reactor.undo(end)
        return frames.mac_text(answers[0]) if answers else None

    def close(self) -> None:
        """Close all ports and captures. Idempotent."""
        for capture in self._captures:
            capture.abandon()

        def end() -> None:
            self.closed = True
            if self._own is not None:
                self._own.closed = True
            station = self._station
            if self._services is not None and station is not None and station.exchange is not None:
                self._services.exchanges.remove(station.exchange)
            self._services = None
            self._fabric.close()

        self._reactor.undo(end)
        for port in self._ports:
            port.close()
        self._ports = self._captures = ()

    def _offer(self, station: Station, services: Services) -> None:
        station.exchange = Exchange(
            self._reactor, self._fabric.send, station.mac, station.address.packed, services
        )
        services.exchanges.append(station.exchange)

    def _checked_host_address(self, ip: str) -> IPv4Address:
        address = parse_address(ip)
        if self.addressing is not None:
            self.addressing.host(address, f"network {self.name}")
        return address

    def _jacks(self, ports: Collection[Port], what: str) -> frozenset[Jack]:
        known = self.ports
        for port in ports:
            if port not in known:
                raise SpecError(f"{what}: {port!r} is not an open port of the network {self.name}")
        if not ports:
            raise SpecError(f"{what}: no port of the network {self.name} is named")
        return frozenset(port.jack for port in ports)

    def _add(self, stage: Stage) -> Rule:
        self._reactor.call(lambda: self._fabric.add_stage(stage))
        return Rule(self._reactor, self._fabric, stage)
