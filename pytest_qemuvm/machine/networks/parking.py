"""Where machines of the pool wait that will be in networks: each alone, on a double of every one of them.

Nobody knows which networks the next test will make, but they are likely to be called what the last ones were,
and to have their addresses. A machine that waits has an address in such a network already, on a segment with
nobody else on it. If the network comes, and nobody there has the address, the line to the machine is taken
over; the machine does not notice.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from pytest_qemuvm.machine.networks.wires import SegmentOutlet
from pytest_qemuvm.spec.addresses import FIRST_HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_qemuvm.machine.networks.network import Joint, Network
    from pytest_qemuvm.spec.devices import NicSpec
    from pytest_qemuvm.spec.network import Link, NetworkSpec

Numbered = tuple[str, "NicSpec", str]
"""A NIC's id, its spec, and its MAC address."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a network was like."""

    name: str
    spec: NetworkSpec
    subnet: IPv4Network


class Parking:
    """The doubles of networks that machines wait on. Every method may be called from any thread."""

    def __init__(self, build: Callable[[Shape], Network]) -> None:
        self._build = build
        """Makes a double."""
        self._shapes: dict[str, Shape] = {}
        self._doubles: dict[str, dict[str, Network]] = {}
        """By machine, and by the name of the network."""
        self._specs: dict[tuple[str, str], NicSpec] = {}
        self._lock = threading.RLock()

    def note(self, network: Network) -> None:
        """Remember what a network is like: the next of its name is likely to be the same."""
        with self._lock:
            self._shapes[network.name] = Shape(network.name, network.spec, IPv4Network(network.subnet))

    def shapes(self, nics: Iterable[NicSpec]) -> tuple[Shape, ...]:
        """Return what the networks of these NICs are like."""
        with self._lock:
            return tuple(self._shapes[nic.network] for nic in nics if nic.network in self._shapes)

    def allows(self, nics: Iterable[NicSpec]) -> bool:
        """Return whether a machine with such NICs can wait: on segments, with no address chosen for it."""
        with self._lock:
            wanted = [nic for nic in nics if nic.network is not None]
            shapes = [self._shapes.get(nic.network) for nic in wanted]
        chosen = any(nic.ip is not None or nic.mac is not None for nic in wanted)
        return not chosen and all(shape is not None and shape.spec.kind == "segment" for shape in shapes)

    def park(self, vm: str, nics: Sequence[Numbered]) -> dict[str, Link]:
        """Connect a machine that is to wait; return how, by the ids of its NICs."""
        with self._lock:
            try:
                return {name: self._parked(vm, name, nic, mac) for name, nic, mac in nics if nic.network}
            except BaseException:
                self.leave(vm)
                raise

    def double(self, vm: str, network: str) -> Network | None:
        """Return what a machine waits on in place of a network; None where it does not wait."""
        with self._lock:
            return self._doubles.get(vm, {}).get(network)

    def suits(self, vm: str, find: Callable[[str], Network]) -> bool:
        """Return whether the networks are as a machine that waits expects them, with room for it."""
        with self._lock:
            doubles = dict(self._doubles.get(vm, {}))
        for name, double in doubles.items():
            network = find(name)
            if (network.spec, network.subnet) != (double.spec, double.subnet):
                return False
            taken = {joint.link.ip for joint in network.joints() if joint.link.ip is not None}
            if any(joint.link.ip in taken for joint in double.joints()):
                return False
        return True

    def move(self, vm: str, find: Callable[[str], Network]) -> None:
        """Take a machine that waits into the networks. Raises AddressInUse; then it is of no use."""
        with self._lock:
            doubles = list(self._doubles.get(vm, {}).values())
        for double in doubles:
            network = find(double.name)
            for joint in double.joints():
                self._move(joint, network)
        self.leave(vm)

    def leave(self, vm: str) -> None:
        """Take away what a machine has waited on. Idempotent."""
        with self._lock:
            doubles = self._doubles.pop(vm, {})
            self._specs = {key: spec for key, spec in self._specs.items() if key[0] != vm}
        for double in doubles.values():
            double.discard()

    def close(self) -> None:
        """Take everything away."""
        for vm in list(self._doubles):
            self.leave(vm)

    def _parked(self, vm: str, name: str, nic: NicSpec, mac: str) -> Link:
        """Connect one NIC. The caller holds the lock."""
        doubles = self._doubles.setdefault(vm, {})
        if nic.network not in doubles:
            doubles[nic.network] = self._build(self._shapes[nic.network])
        double = doubles[nic.network]
        self._specs[vm, name] = spec = replace(nic, ip=self._free(double))
        return double.connect(vm, name, spec, mac)

    def _free(self, double: Network) -> str | None:
        """Return the first address that no machine waits with. The caller holds the lock."""
        if not double.spec.addressing:
            return None
        alike = [other for doubles in self._doubles.values() for other in doubles.values()]
        taken = {joint.link.ip for other in alike if other.name == double.name for joint in other.joints()}
        subnet = IPv4Network(double.subnet)
        hosts = (str(subnet[number]) for number in range(FIRST_HOST, subnet.num_addresses - 1))
        return next(host for host in hosts if host not in taken)

    def _move(self, joint: Joint, network: Network) -> None:
        network.connect(joint.vm, joint.nic, self._specs[joint.vm, joint.nic], joint.mac)
        outlet = network.outlet(joint.vm, joint.nic)
        assert isinstance(outlet, SegmentOutlet)
        assert isinstance(joint.outlet, SegmentOutlet)
        outlet.port.take_over(joint.outlet.port)
