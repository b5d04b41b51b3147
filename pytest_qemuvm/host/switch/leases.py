"""Who has which address of a network, and which names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_qemuvm.host.switch import dns
from pytest_qemuvm.spec.services import HOST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address

    from pytest_qemuvm.spec.segment import Addressing

_MOST_REFUSED = 256
"""Addresses that somebody says are taken; more are believed of nobody."""


class Member(NamedTuple):
    """A machine's interface; one without an address gets one when it asks."""

    mac: bytes
    address: IPv4Address | None
    names: tuple[str, ...]


class Leases:
    """The book of addresses."""

    def __init__(self, addressing: Addressing) -> None:
        self._addressing = addressing
        self._members: dict[bytes, Member] = {}
        self._lent: dict[bytes, IPv4Address] = {}
        self._refused: set[IPv4Address] = set()

    def join(self, member: Member) -> None:
        """Enter a machine. Its address is its own, whoever was lent it before."""
        self._members[member.mac] = member
        self._lent = {mac: address for mac, address in self._lent.items() if address != member.address}

    def leave(self, mac: bytes) -> None:
        """Strike a machine out."""
        self._members.pop(mac, None)
        self._lent.pop(mac, None)

    def address_of(self, mac: bytes) -> IPv4Address | None:
        """Return the address of a machine; a machine that has none is lent one. None: there are no more."""
        known = self.known(mac)
        if known is None:
            known = self._free()
            if known is not None:
                self._lent[mac] = known
        return known

    def known(self, mac: bytes) -> IPv4Address | None:
        """Return the address of a machine, None where it has none."""
        member = self._members.get(mac)
        own = None if member is None else member.address
        return self._lent.get(mac) if own is None else own

    def give_back(self, mac: bytes) -> None:
        """Take back an address that was lent."""
        self._lent.pop(mac, None)

    def refuse(self, mac: bytes) -> None:
        """Take back an address that somebody else uses, and lend it to nobody."""
        address = self._lent.pop(mac, None)
        if address is not None and len(self._refused) < _MOST_REFUSED:
            self._refused.add(address)

    def host_name(self, mac: bytes) -> str | None:
        """Return the first name of a machine."""
        member = self._members.get(mac)
        return member.names[0] if member is not None and member.names else None

    def has(self, host: str) -> bool:
        """Return whether a machine of that first name is a member."""
        return any(member.names[:1] == (host,) for member in self._members.values())

    def addresses(self, name: dns.Name) -> list[IPv4Address] | None:
        """Return the addresses under a name, with or without the domain; None where nobody has that name."""
        found, named = [], False
        for member in self._members.values():
            for own in member.names:
                short = dns.name(own)
                if name in (short, (*short, *dns.name(self._addressing.domain))):
                    named = True
                    address = self.known(member.mac)
                    if address is not None and address not in found:
                        found.append(address)
        return found if named else None

    def own(self, name: dns.Name) -> list[IPv4Address] | None:
        """Return the network's own address under its own name; None for another name."""
        short = dns.name(HOST_NAME)
        known = (short, (*short, *dns.name(self._addressing.domain)))
        return [self._addressing.station] if name in known else None

    def names(self, reverse: dns.Name) -> Iterator[dns.Name]:
        """Yield the names, with the domain, of the address that is asked for backwards."""
        domain = dns.name(self._addressing.domain)
        for member in self._members.values():
            address = self.known(member.mac)
            if address is not None and dns.reverse(address.packed) == reverse:
                for own in member.names:
                    yield (*dns.name(own), *domain)
        if dns.reverse(self._addressing.station.packed) == reverse:
            yield (*dns.name(HOST_NAME), *domain)

    def _free(self) -> IPv4Address | None:
        # From the end: those who are given addresses beforehand are given the first ones.
        taken = {self._addressing.station, *self._lent.values(), *self._refused}
        taken.update(member.address for member in self._members.values() if member.address is not None)
        network = self._addressing.network
        for offset in range(network.num_addresses - 2, 0, -1):
            if (address := network[offset]) not in taken:
                return address
        return None
