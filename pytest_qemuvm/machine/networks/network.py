"""A network: the handle that ``network_factory`` gives."""

from __future__ import annotations

import ipaddress
import itertools
import shutil
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import AddressInUse, NetworkInUse, NotConnected, SpecError, WaitTimeout
from pytest_qemuvm.guest import waits
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.networks.faults import NetworkFaults
from pytest_qemuvm.machine.networks.wires import SegmentOutlet, SegmentWire
from pytest_qemuvm.spec.addresses import FIRST_HOST
from pytest_qemuvm.spec.network import USER_GUEST, Link, domain_of
from pytest_qemuvm.spec.services import checked_offer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_qemuvm.host.switch import Capture, Service
    from pytest_qemuvm.machine.faults.ledger import FaultLedger
    from pytest_qemuvm.machine.networks.wires import Backend, Outlet, Wire
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.spec.devices import NicSpec
    from pytest_qemuvm.spec.network import NetworkKind, NetworkSpec
    from pytest_qemuvm.spec.services import Protocol, Target

UP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class House:
    """What a network needs of its session."""

    ledger: FaultLedger
    find_vm: Callable[[str], VM]
    """Return a VM by name."""
    require_guest: Callable[[str], None]
    """Raise NotSupportedInDryRun where no guest really runs."""
    captures: Path
    """The directory for what is captured."""
    forget: Callable[[Network], None]
    """Note that a network is gone."""


@dataclass(slots=True)
class Joint:
    """A NIC's connection to a network."""

    vm: str
    nic: str
    mac: str
    link: Link
    outlet: Outlet | None

    def __str__(self) -> str:
        return f"{self.nic} of {self.vm}"


class Network(NetworkFaults):
    """A network of a test, made by ``network_factory``. VMs are connected to it by their NICs' specs."""

    def __init__(
        self,
        name: str,
        spec: NetworkSpec,
        backend: Backend,
        subnet: ipaddress.IPv4Network,
        wire: Wire,
        house: House,
    ) -> None:
        super().__init__(name, wire, house.ledger)
        self.spec = spec
        self.backend = backend
        """What is behind its NICs in QEMU; for the harness."""
        self._subnet = subnet
        self._house = house
        self._joints: dict[tuple[str, str], Joint] = {}
        self._captures = itertools.count()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Network {self.name!r}: {self.kind}, {self.subnet}, {len(self._joints)} connected>"

    @property
    def kind(self) -> NetworkKind:
        """``segment``, ``user``, ``tap`` or ``bridge``, as asked for."""
        return self.spec.kind

    @property
    def subnet(self) -> str:
        """Its addresses: ``"10.77.0.0/24"``."""
        return str(self._subnet)

    @property
    def vms(self) -> tuple[VM, ...]:
        """The VMs that are connected to it, in the order in which they were."""
        names = dict.fromkeys(joint.vm for joint in self.joints())
        return tuple(self._house.find_vm(name) for name in names)

    def ip_of(self, vm: VM) -> str:
        """Return a VM's first address here. Raises NotConnected where it has none."""
        for joint in self.joints(vm.name):
            if joint.link.ip is not None:
                return joint.link.ip
        raise NotConnected(f"VM {vm.name!r} has no address in network {self.name!r}")

    def wait_all_up(self, timeout: float = UP_SECONDS) -> None:
        """Wait until each running VM has, on the network, the address that it was given there.

        The network asks by ARP, so it matters not what runs in the VM; on user-mode networking the guest is
        asked. ``timeout`` is in seconds. Raises WaitTimeout, naming who has not answered, AddressInUse where
        somebody else has, SpecError for a VM of which no address is known, and NotSupportedInDryRun.
        """
        self._house.require_guest(f"guest that answers in network {self.name!r}")
        deadline = Deadline.after(timeout)
        for joint in self.joints():
            vm = self._house.find_vm(joint.vm)
            if vm.live is None or not vm.live.alive:
                continue
            if joint.link.ip is None:
                raise SpecError(
                    f"network {self.name!r} has given {joint} no address to wait for",
                    hint="say which it will have: NicSpec(network=..., ip=...)",
                )
            if self.backend != "user":
                self._await_answer(joint, joint.link.ip, deadline)
            elif vm.live.channel is not None:
                look = f"ip -4 -o addr show | grep -q ' {joint.link.ip}/'"
                waits.until_succeeds(vm.live.channel, look, deadline)

    def _await_answer(self, joint: Joint, ip: str, deadline: Deadline) -> None:
        """Wait until a NIC answers for its address."""
        found = self.wire.find(ip, deadline)
        if found is None:
            raise WaitTimeout(
                f"{joint} did not answer for {ip} in network {self.name!r} within {deadline.seconds:g} s",
                waited_for=f"an ARP reply for {ip}",
                seconds=deadline.seconds,
            )
        # A guest may answer for all its addresses on each of its NICs, as Linux does.
        if found not in {other.mac for other in self.joints(joint.vm)}:
            raise AddressInUse(
                f"in network {self.name!r} {found} answers for {ip}, which is {joint}'s", holder=found
            )

    def capture(self, path: str | Path | None = None, vm: VM | str | None = None) -> Capture:
        """Write all frames from now on to a pcap file, of the whole segment or of a VM's first NIC there.

        Without a path it is kept where a failing test's files are; ``.path`` says where it is meanwhile.
        Ends with ``close()`` of what is returned, a context manager, or with the network. Raises SpecError
        for a network whose frames the harness does not see.
        """
        return self._capture(self._house.captures / self._next_capture() if path is None else path, vm)

    def _next_capture(self) -> str:
        self._house.captures.mkdir(mode=0o700, parents=True, exist_ok=True)
        return f"{self.name}-{next(self._captures)}.pcap"

    def keep_frames(self, target: Path) -> list[Path]:
        """Write the last frames, about a MiB, and what was captured, to a directory; return the files."""
        if not isinstance(self.wire, SegmentWire):
            return []
        last = target / f"{self.name}.pcap"
        kept = [last] if self.wire.segment.write_recent(last) else []
        for capture in self._house.captures.glob(f"{self.name}-*.pcap"):
            kept.append(target / capture.name)
            shutil.copyfile(capture, kept[-1])
        return kept

    def serve(self, port: int, to: Target, protocol: Protocol = "tcp") -> Service:
        """Have the guests reach a service of the host's: at ``port`` of the address that is returned.

        ``to`` is ``(host, port)``, a port of 127.0.0.1, or the path of a unix socket. On a segment guests
        find the address as ``host``, too. It ends with ``close()`` of what is returned, a context manager, or
        with the network; connections are reset then. Raises SpecError for what cannot be, AddressInUse for a
        port that is taken, and on user-mode networking NetworkInUse where VMs are connected that know
        nothing of services yet: the first one comes before them.
        """
        return self.wire.serve(checked_offer(port, to, protocol), self)

    def delete(self) -> None:
        """Take it down. Idempotent. Raises NetworkInUse where VMs are connected to it."""
        users = tuple(dict.fromkeys(joint.vm for joint in self.joints()))
        if users:
            raise NetworkInUse(
                f"network {self.name!r} is in use by {', '.join(users)}",
                hint="delete the VMs first",
                users=users,
            )
        self.discard()

    def launch_spec(self) -> NicSpec:
        """Return a NIC that is connected to it: what it stands for in ``nics=``."""
        from pytest_qemuvm.spec.devices import NicSpec  # noqa: PLC0415  # a handle is a value of specs here only

        return NicSpec(network=self)

    def discard(self) -> None:
        """Take it down whoever is connected: with the test that it was made for."""
        self._ledger.forget(self)
        for joint in self.joints():
            self.disconnect(joint.vm, joint.nic)
        self.wire.close()
        self._house.forget(self)

    # For the harness

    def joints(self, vm: str | None = None) -> list[Joint]:
        """Return the connections of all NICs, or of a VM's."""
        with self._lock:
            return [joint for joint in self._joints.values() if vm in (None, joint.vm)]

    def connect(self, vm: str, nic: str, spec: NicSpec, mac: str) -> Link:
        """Connect a NIC, in place of what it was connected to before. Raises SpecError, AddressInUse."""
        if spec.forward and self.backend != "user":
            raise SpecError(
                f"forward= is of user-mode networking, and {self.name!r} is a {self.kind}",
                hint="give the VM another NIC for it: NicSpec(forward=...)",
            )
        self.disconnect(vm, nic)
        with self._lock:
            self._check_mac(mac, f"{nic} of {vm}")
            ip = self._address(spec, f"{nic} of {vm}")
            link = self._link(ip)
            self._joints[vm, nic] = joint = Joint(vm, nic, mac, link, None)
        try:
            joint.outlet = self.wire.connect(f"{vm}/{nic}", mac, ip, vm)
            if joint.outlet is not None:
                served = self.backend == "user" and isinstance(joint.outlet, SegmentOutlet)
                if spec.boot:
                    self.wire.expect_boot(joint.outlet)
                joint.link = replace(link, served=served, commands=joint.outlet.commands)
        except BaseException:
            self.disconnect(vm, nic)
            raise
        return joint.link

    def outlet(self, vm: str, nic: str) -> Outlet | None:
        """Return the place of a NIC that is connected."""
        with self._lock:
            return self._joints[vm, nic].outlet

    def disconnect(self, vm: str, nic: str) -> None:
        """Take a NIC off the network. Idempotent."""
        with self._lock:
            joint = self._joints.pop((vm, nic), None)
        if joint is not None and joint.outlet is not None:
            joint.outlet.close()

    def overlaps(self, other: Network) -> bool:
        """Return whether an address may be of both."""
        return self._subnet.overlaps(other._subnet)  # of the same class

    def _link(self, ip: str | None) -> Link:
        prefix = self._subnet.prefixlen
        if self.backend == "user":
            outward = self.spec.outward
            return Link(self.name, "user", ip, prefix, subnet=str(self._subnet), outward=outward)
        if not self.spec.addressing or self.backend == "tap":
            # Names are the switch's to resolve, and it is none of the host's networks.
            return Link(self.name, self.backend, ip, prefix)
        return Link(self.name, self.backend, ip, prefix, str(self._subnet[1]), domain_of(self.name))

    def _address(self, spec: NicSpec, whose: str) -> str | None:
        """Return the address that a NIC is to have. The caller holds the lock."""
        taken = {joint.link.ip: joint for joint in self._joints.values()}
        if self.backend == "user":
            own = str(self._subnet[USER_GUEST])
            if spec.ip not in (None, own):
                raise SpecError(f"on user-mode networking the address is {own}, not {spec.ip}")
            return own
        if spec.ip is not None:
            return self._wanted(ipaddress.IPv4Address(spec.ip), taken, whose)
        if not self.spec.addressing:
            return None
        for number in range(FIRST_HOST, self._subnet.num_addresses - 1):
            if (free := str(self._subnet[number])) not in taken:
                return free
        raise SpecError(f"network {self.name!r} has no address left in {self._subnet}")

    def _wanted(self, ip: ipaddress.IPv4Address, taken: dict[str | None, Joint], whose: str) -> str:
        reserved = (self._subnet.network_address, self._subnet.broadcast_address)
        own = (self._subnet[1],) if self.spec.addressing else ()
        if ip not in self._subnet or ip in (*reserved, *own):
            why = "is the network's own" if ip in own else f"is no host's address in {self._subnet}"
            raise SpecError(f"{ip}, for {whose}, {why}")
        if str(ip) in taken:
            holder = str(taken[str(ip)])
            raise AddressInUse(
                f"{ip} in network {self.name!r} is {holder}'s", f"wanted for {whose}", holder=holder
            )
        return str(ip)

    def _check_mac(self, mac: str, whose: str) -> None:
        for joint in self._joints.values():
            if joint.mac == mac:
                raise AddressInUse(
                    f"{mac} in network {self.name!r} is {joint}'s", f"wanted for {whose}", holder=str(joint)
                )
