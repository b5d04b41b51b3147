"""All networks of a session, by name, and which NIC is connected to which."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.nic import descriptors_of
from pytest_qemuvm.errors import NetworkExists, NetworkNotFound, SpecError, nearest
from pytest_qemuvm.plan.identity import numbered_nics
from pytest_qemuvm.spec.names import checked_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import ExitStack
    from io import FileIO
    from pathlib import Path

    from pytest_qemuvm.host.links import HostLinks
    from pytest_qemuvm.machine.faults.ledger import FaultLedger
    from pytest_qemuvm.machine.networks.builder import Builder
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.machine.networks.parking import Parking, Shape
    from pytest_qemuvm.machine.networks.wires import Outlet
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.plan import MachinePlan
    from pytest_qemuvm.spec.devices import NicSpec
    from pytest_qemuvm.spec.network import Link, NetworkSpec


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
        """``is_real``: whether network devices of the host are made."""
        self._tag = tag
        self._needs = tag, links if is_real else None, (ledger, find_vm, require_guest, captures)
        self.captures = captures
        """The directory for what is captured; it is there once something was."""
        self._builder: Builder | None = None
        self._parking: Parking | None = None
        """Both are there with the first network."""
        self._networks: dict[str, tuple[Network, str]] = {}
        self._lock = threading.Lock()

    def make(self, name: str | None, spec: NetworkSpec, owner: str) -> Network:
        """Make a network. Raises NetworkExists, SpecError."""
        with self._lock:
            if self._builder is None or self._parking is None:
                # What networks are made of is loaded with the first one: few suites have any.
                from pytest_qemuvm.machine.networks.builder import Builder  # noqa: PLC0415
                from pytest_qemuvm.machine.networks.parking import Parking  # noqa: PLC0415

                self._builder = Builder(*self._needs)
                self._parking = Parking(self._builder.double)
            if name is None:
                name = next(
                    word for n in range(len(self._networks) + 1) if (word := f"net{n}") not in self._networks
                )
            elif checked_name(name, "network") in self._networks:
                raise NetworkExists(
                    f"there is a network {name!r} already", f"made for {self._networks[name][1]}"
                )
            others = [network for network, _ in self._networks.values()]
            network = self._builder.build(name, spec, others, self._forget)
            self._networks[name] = network, owner
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
        if self._builder is not None:
            self._builder.close()

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

    def _forget(self, network: Network) -> None:
        with self._lock:
            self._networks.pop(network.name, None)


def _kept(end: socket.socket | FileIO, stack: ExitStack) -> int:
    """Return the descriptor of what is closed with the stack."""
    stack.callback(end.close)
    return end.fileno()
