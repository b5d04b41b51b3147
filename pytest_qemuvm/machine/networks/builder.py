"""What networks are made of: a subnet, and a wire to which NICs can be connected."""

from __future__ import annotations

import warnings
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import QemuVMWarning, SpecError
from pytest_qemuvm.host.links import host_subnets
from pytest_qemuvm.host.switch import Switchboard
from pytest_qemuvm.machine.networks.host_wires import DeviceNames, HostWire
from pytest_qemuvm.machine.networks.network import House, Network
from pytest_qemuvm.machine.networks.wires import SegmentWire, UserWire
from pytest_qemuvm.spec.network import USER_SUBNET, domain_of
from pytest_qemuvm.spec.segment import Addressing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pytest_qemuvm.host.links import HostLinks
    from pytest_qemuvm.machine.faults.ledger import FaultLedger
    from pytest_qemuvm.machine.networks.parking import Shape
    from pytest_qemuvm.machine.networks.wires import Backend, Wire
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.spec.network import NetworkSpec

_FIRST_SUBNET = 10 << 24 | 77 << 16
"""10.77.0.0, of which networks get a /24 each."""


class Builder:
    """Makes the networks of a session; there with the first of them."""

    def __init__(
        self,
        tag: str,
        links: HostLinks | None,
        found: tuple[FaultLedger, Callable[[str], VM], Callable[[str], None], Path],
    ) -> None:
        self._links = links
        """Who makes network devices of the host; None where that is a dry-run."""
        self._found = found
        self._names = DeviceNames(tag)
        self._switchboard: Switchboard | None = None

    def build(
        self, name: str, spec: NetworkSpec, others: Iterable[Network], forget: Callable[[Network], None]
    ) -> Network:
        """Make a network, apart from the others; ``forget`` is told of its end. Raises SpecError."""
        subnet = self._subnet(spec, others)
        backend, wire = self._wire(name, spec, subnet)
        return Network(name, spec, backend, subnet, wire, House(*self._found, forget))

    def double(self, shape: Shape) -> Network:
        """Return a segment that is like a network, as far as a machine that waits on it can tell."""
        # Whoever waits has been given its address, and nobody is to find its name.
        wire = SegmentWire(self._switch().segment(shape.name, None))
        return Network(shape.name, shape.spec, "dgram", shape.subnet, wire, House(*self._found, _unknown))

    def close(self) -> None:
        """End the switch."""
        if self._switchboard is not None:
            self._switchboard.close()

    def _subnet(self, spec: NetworkSpec, others: Iterable[Network]) -> IPv4Network:
        if spec.subnet is not None:
            return IPv4Network(spec.subnet)
        if spec.kind == "user":
            return IPv4Network(USER_SUBNET)
        taken = [IPv4Network(network.subnet) for network in others]
        if spec.kind != "segment" and self._links is not None:
            taken += host_subnets()
        candidates = (IPv4Network((_FIRST_SUBNET + (n << 8), 24)) for n in range(256))
        for subnet in candidates:
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
        raise SpecError("no subnet of 10.77.0.0/16 is left", hint="say subnet=, or delete networks")

    def _wire(self, name: str, spec: NetworkSpec, subnet: IPv4Network) -> tuple[Backend, Wire]:
        """Return what a network is made of, which is there then."""
        if spec.kind == "segment":
            addressing = Addressing(subnet, domain=domain_of(name)) if spec.addressing else None
            return "dgram", SegmentWire(self._switch().segment(name, addressing))
        if spec.kind == "user":
            return "user", UserWire(name, subnet, self._switch)
        if self._links is not None:
            self._links.check_allowed()
        else:
            text = f"network {name!r} is user-mode networking and no {spec.kind}: networks are a dry-run"
            warnings.warn(QemuVMWarning(f"{text} (--qemu-network-dry-run=no makes them)"), stacklevel=7)
        own = subnet if spec.addressing else None
        bridge = None if spec.kind == "tap" else spec.device or self._names.take()
        return "user" if self._links is None else "tap", HostWire(self._links, self._names, own, bridge)

    def _switch(self) -> Switchboard:
        if self._switchboard is None:
            self._switchboard = Switchboard()
        return self._switchboard


def _unknown(_double: Network) -> None:
    """Forget a network that nobody knew."""
