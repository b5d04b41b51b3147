"""All networks of a session, by name, and which NIC is connected to which."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.nic import descriptors_of
from pytest_qemuvm.errors import NetworkExists, NetworkNotFound, QemuVMWarning, SpecError, nearest
from pytest_qemuvm.plan.identity import numbered_nics
from pytest_qemuvm.spec.names import checked_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import ExitStack
    from io import FileIO
    from ipaddress import IPv4Network
    from pathlib import Path

    from pytest_qemuvm.host.links import HostLinks
    from pytest_qemuvm.host.switch import Switchboard
    from pytest_qemuvm.machine.faults.ledger import FaultLedger
    from pytest_qemuvm.machine.networks.host_wires import DeviceNames
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.machine.networks.parking import Parking, Shape
    from pytest_qemuvm.machine.networks.wires import Backend, Outlet, Wire
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.plan import MachinePlan
    from pytest_qemuvm.spec.devices import NicSpec
    from pytest_qemuvm.spec.network import Link, NetworkSpec


_FIRST_SUBNET = 10 << 24 | 77 << 16
"""10.77.0.0, of which networks get a /24 each."""


class NetworkShelf:
    """All networks of a session."""

    def __init__(
        self,
        tag: str,
        ledger: FaultLedger,
        find_vm: Callable[[str], VM],
        require_guest: Callable[[str], None],
        links: HostLinks,
        captures: Path,
        *,
        is_real: bool,
    ) -> None:
        self._tag = tag
        self._links = links
        self._is_real = is_real
        """Whether network devices of the host are made."""
        self._found = ledger, find_vm, require_guest, captures
        self.captures = captures
        """The directory for what is captured; it is there once something was."""
        self._names: DeviceNames | None = None
        self._switchboard: Switchboard | None = None
        self._networks: dict[str, tuple[Network, str]] = {}
        self._parking: Parking | None = None
        """There with the first network."""
        self._lock = threading.Lock()

    def make(self, name: str | None, spec: NetworkSpec, owner: str) -> Network:
        """Make a network. Raises NetworkExists, SpecError."""
        # What networks are made of is loaded with the first one: few suites have any.
        from pytest_qemuvm.machine.networks.network import House, Network  # noqa: PLC0415
        from pytest_qemuvm.machine.networks.parking import Parking  # noqa: PLC0415

        with self._lock:
            if name is None:
                name = next(
                    word for n in range(len(self._networks) + 1) if (word := f"net{n}") not in self._networks
                )
            elif checked_name(name, "network") in self._networks:
                raise NetworkExists(
                    f"there is a network {name!r} already", f"made for {self._networks[name][1]}"
                )
            subnet = self._subnet(spec)
            backend, wire = self._wire(name, spec, subnet)
            network = Network(name, spec, backend, subnet, wire, House(*self._found, self._forget))
            self._networks[name] = network, owner
            if self._parking is None:
                self._parking = Parking(self._double)
        self._parking.note(network)
        return network

    def get(self, name: str) -> Network:
        """Return a network by name. Raises NetworkNotFound."""
        with self._lock:
            if name in self._networks:
                return self._networks[name][0]
            known = list(self._networks)
        raise NetworkNotFound(
            f"no network {name!r} in this session",
            hint=nearest(name, known) if known else "make it first: network_factory(name)",
        )

    def all(self, owner: str | None = None) -> list[Network]:
        """Return all networks, or those made for an owner."""
        with self._lock:
            return [network for network, made_for in self._networks.values() if owner in (None, made_for)]

    def with_owners(self) -> list[tuple[Network, str]]:
        """Return all networks, each with whom it was made for."""
        with self._lock:
            return list(self._networks.values())

    def close(self) -> None:
        """Take all networks down, and end the switch."""
        for network in self.all():
            network.discard()
        if self._parking is not None:
            self._parking.close()
        if self._switchboard is not None:
            self._switchboard.close()

    # NICs

    def connect_all(self, vm: str, nics: Sequence[NicSpec]) -> dict[str, Link]:
        """Connect the NICs of a VM that is being planned; return how, by their ids.

        Raises NetworkNotFound, SpecError, AddressInUse; then none is connected.
        """
        wanted = [
            (name, nic, mac, self.get(nic.network))
            for name, nic, mac in numbered_nics(nics, self._tag, vm)
            if nic.network is not None
        ]
        self._check_apart(vm, [network for *_, network in wanted])
        try:
            return {name: network.connect(vm, name, nic, mac) for name, nic, mac, network in wanted}
        except BaseException:
            self.disconnect(vm)
            raise

    # Machines that are ready before their networks are there

    def may_wait(self, nics: Iterable[NicSpec]) -> bool:
        """Return whether a VM with such NICs can be prepared before its networks are there."""
        nics = [nic for nic in nics if nic.network is not None]
        return not nics or (self._parking is not None and self._parking.allows(nics))

    def shapes(self, nics: Iterable[NicSpec]) -> tuple[Shape, ...]:
        """Return what the networks of these NICs are like."""
        return () if self._parking is None else self._parking.shapes(nics)

    def park(self, vm: str, nics: Sequence[NicSpec]) -> dict[str, Link]:
        """Connect the NICs of a VM that is to wait for its networks; return how, by their ids."""
        return (
            {} if self._parking is None else self._parking.park(vm, list(numbered_nics(nics, self._tag, vm)))
        )

    def suits(self, vm: str) -> bool:
        """Return whether the networks that a VM has waited for are there, as it expects them."""
        return self._parking is None or self._parking.suits(vm, self.get)

    def unpark(self, vm: str) -> None:
        """Take a VM that has waited into its networks. Raises AddressInUse."""
        if self._parking is not None:
            self._parking.move(vm, self.get)

    def connect(self, vm: str, nic: str, spec: NicSpec, mac: str) -> Link | None:
        """Connect one NIC, in place of what it was connected to; None where its spec names no network."""
        if spec.network is None:
            return None
        network = self.get(spec.network)
        others = [other for other in self._of(vm) if other is not network]
        self._check_apart(vm, [*others, network])
        return network.connect(vm, nic, spec, mac)

    def disconnect(self, vm: str, nic: str | None = None) -> None:
        """Take a VM's NIC, or all of them, off their networks. Idempotent."""
        for network in self.all():
            for joint in network.joints(vm):
                if nic in (None, joint.nic):
                    network.disconnect(vm, joint.nic)
        if nic is None and self._parking is not None:
            self._parking.leave(vm)

    def run_ended(self, vm: str) -> None:
        """Note that the QEMU of a VM has ended. On any thread."""
        for outlet in self._outlets(vm):
            outlet.run_ended()

    def went_back(self, vm: str) -> None:
        """Note that a VM is what it was some time ago."""
        for outlet in self._outlets(vm):
            outlet.went_back()

    def descriptors(self, vm: str, plan: MachinePlan, stack: ExitStack) -> Mapping[str, int]:
        """Return what a QEMU that is about to start has its NICs on, by name; closed with the stack."""
        return {
            name: self.descriptor(vm, nic.id, nic.link, name, stack)
            for nic in plan.nics
            if nic.link is not None
            for name in descriptors_of(nic.id, nic.link)
        }

    def descriptor(self, vm: str, nic: str, link: Link, name: str, stack: ExitStack) -> int:
        """Return what a NIC is to be on, for one run of QEMU; closed with the stack."""
        double = None if self._parking is None else self._parking.double(vm, link.network)
        outlet = (double or self.get(link.network)).outlet(vm, nic)
        assert outlet is not None
        return _kept(outlet.open(descriptors_of(nic, link).index(name)), stack)

    def _outlets(self, vm: str) -> list[Outlet]:
        joints = [joint for network in self.all() for joint in network.joints(vm)]
        return [joint.outlet for joint in joints if joint.outlet is not None]

    def _of(self, vm: str) -> list[Network]:
        return [network for network in self.all() if network.joints(vm)]

    def _check_apart(self, vm: str, networks: Sequence[Network]) -> None:
        """Raise SpecError where a VM could not know by which NIC to send."""
        distinct = list(dict.fromkeys(networks))
        for index, one in enumerate(distinct):
            for other in distinct[:index]:
                if one.spec.addressing and other.spec.addressing and one.overlaps(other):
                    raise SpecError(
                        f"VM {vm!r} is in two networks with the same addresses: {other!r} and {one!r}",
                        hint="give them subnets of their own: network_factory(subnet=...)",
                    )

    # What they are made of

    def _subnet(self, spec: NetworkSpec) -> IPv4Network:
        """Return the subnet of a network that is being made. The caller holds the lock."""
        from ipaddress import IPv4Network  # noqa: PLC0415  # see make()

        from pytest_qemuvm.host.links import host_subnets  # noqa: PLC0415
        from pytest_qemuvm.spec.network import USER_SUBNET  # noqa: PLC0415

        if spec.subnet is not None:
            return IPv4Network(spec.subnet)
        if spec.kind == "user":
            return IPv4Network(USER_SUBNET)
        taken = [IPv4Network(network.subnet) for network, _ in self._networks.values()]
        if spec.kind != "segment" and self._is_real:
            taken += host_subnets()
        candidates = (IPv4Network((_FIRST_SUBNET + (n << 8), 24)) for n in range(256))
        for subnet in candidates:
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
        raise SpecError("no subnet of 10.77.0.0/16 is left", hint="say subnet=, or delete networks")

    def _wire(self, name: str, spec: NetworkSpec, subnet: IPv4Network) -> tuple[Backend, Wire]:
        """Return what a network is made of, which is there then. The caller holds the lock."""
        from pytest_qemuvm.machine.networks.host_wires import DeviceNames, HostWire  # noqa: PLC0415  # see make()
        from pytest_qemuvm.machine.networks.wires import SegmentWire, UserWire  # noqa: PLC0415
        from pytest_qemuvm.spec.network import domain_of  # noqa: PLC0415
        from pytest_qemuvm.spec.segment import Addressing  # noqa: PLC0415

        if spec.kind == "segment":
            addressing = Addressing(subnet, domain=domain_of(name)) if spec.addressing else None
            return "dgram", SegmentWire(self._switch().segment(name, addressing))
        if spec.kind == "user":
            return "user", UserWire(name, subnet, self._switch)
        if self._is_real:
            self._links.check_allowed()
        else:
            text = f"network {name!r} is user-mode networking and no {spec.kind}: networks are a dry-run"
            warnings.warn(QemuVMWarning(f"{text} (--qemu-network-dry-run=no makes them)"), stacklevel=6)
        own = subnet if spec.addressing else None
        if self._names is None:
            self._names = DeviceNames(self._tag)
        bridge = None if spec.kind == "tap" else spec.device or self._names.take()
        links = self._links if self._is_real else None
        return "tap" if links else "user", HostWire(links, self._names, own, bridge)

    def _double(self, shape: Shape) -> Network:
        """Return a segment that is like a network, as far as a machine that waits on it can tell."""
        from pytest_qemuvm.machine.networks.network import House, Network  # noqa: PLC0415  # see make()
        from pytest_qemuvm.machine.networks.wires import SegmentWire  # noqa: PLC0415

        # Whoever waits has been given its address, and nobody is to find its name.
        wire = SegmentWire(self._switch().segment(shape.name, None))
        return Network(shape.name, shape.spec, "dgram", shape.subnet, wire, House(*self._found, _of_no_shelf))

    def _switch(self) -> Switchboard:
        from pytest_qemuvm.host.switch import Switchboard  # noqa: PLC0415  # few suites have networks

        if self._switchboard is None:
            self._switchboard = Switchboard()
        return self._switchboard

    def _forget(self, network: Network) -> None:
        with self._lock:
            self._networks.pop(network.name, None)


def _of_no_shelf(_double: Network) -> None:
    """Forget a network that nobody knew."""


def _kept(end: socket.socket | FileIO, stack: ExitStack) -> int:
    """Return the descriptor of what is closed with the stack."""
    stack.callback(end.close)
    return end.fileno()
