"""Networks of the host's devices: a bridge with a TAP for each NIC, or just a TAP for each."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.host import links
from pytest_qemuvm.machine.networks.wires import no_service
from pytest_qemuvm.plan import links as planned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO
    from ipaddress import IPv4Network

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.switch import Service
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.machine.networks.wires import Outlet
    from pytest_qemuvm.plan.links import Words
    from pytest_qemuvm.spec.services import Offer


class DeviceNames:
    """Names for the network devices of a session."""

    def __init__(self, tag: str) -> None:
        self.alias = f"pytest-qemuvm {tag}"
        """What marks them as the session's."""
        self._tag = tag
        self._numbers = itertools.count()
        self._free: list[str] = []
        self._lock = threading.Lock()

    def take(self) -> str:
        """Return a name that none has. Raises SpecError where there are no more."""
        with self._lock:
            if self._free:
                return self._free.pop()
            try:
                return planned.device_name(self._tag, next(self._numbers))
            except ValueError as error:
                raise SpecError(f"a session has no names for so many network devices: {error}") from error

    def give_back(self, name: str) -> None:
        """Note that a device is gone."""
        with self._lock:
            self._free.append(name)


class TapOutlet:
    """The TAP of one NIC. It is there from the plan of its VM to the VM's end."""

    def __init__(self, device: str, wire: HostWire, commands: tuple[Words, ...]) -> None:
        self.device = device
        self.commands = commands
        self._wire = wire
        self._is_closed = False

    def open(self, number: int = 0) -> FileIO:  # noqa: ARG002, D102
        return links.open_tap(self.device)

    def run_ended(self) -> None:  # noqa: D102
        return

    def went_back(self) -> None:  # noqa: D102
        return

    def close(self) -> None:  # noqa: D102
        if not self._is_closed:
            self._is_closed = True
            self._wire.remove(self.device)


class HostWire:
    """A network made of devices of the host's; in a dry-run ``made`` is None, and none is made."""

    def __init__(
        self,
        made: links.HostLinks | None,
        names: DeviceNames,
        subnet: IPv4Network | None,
        bridge: str | None,
    ) -> None:
        self._made = made
        self._names = names
        self._gateway = None if subnet is None else str(subnet[1])
        self._prefix = 0 if subnet is None else subnet.prefixlen
        self.bridge = bridge
        """The name of the bridge; None: there is none."""
        self._taps: dict[str | None, str] = {}
        """TAPs by the addresses of who is at their other end."""
        self._bridged: tuple[Words, ...] = ()
        if bridge is not None:
            address = None if self._gateway is None else f"{self._gateway}/{self._prefix}"
            self._bridged = tuple(planned.bridge(bridge, names.alias, address))
            if made is not None:
                made.make(bridge, self._bridged)

    def connect(self, label: str, mac: str, ip: str | None, vm: str) -> TapOutlet:  # noqa: ARG002, D102
        device = self._names.take()
        commands = self._commands(device, ip)
        if self._made is not None:
            self._made.make(device, commands)
        self._taps[ip] = device
        return TapOutlet(device, self, (*self._bridged, *commands))

    def _commands(self, device: str, ip: str | None) -> Sequence[Words]:
        alias = self._names.alias
        if self.bridge is not None:
            return tuple(planned.tap_on_bridge(device, alias, self.bridge))
        return tuple(planned.tap_alone(device, alias, self._gateway, ip if self._gateway else None))

    def remove(self, device: str) -> None:
        """Remove the TAP of a NIC that has left."""
        if self._made is not None:
            self._made.remove(device)
        self._taps = {ip: tap for ip, tap in self._taps.items() if tap != device}
        self._names.give_back(device)

    def expect_boot(self, outlet: Outlet) -> None:
        """Do nothing: who answers there is the host's to say."""

    def find(self, ip: str, deadline: Deadline) -> str | None:  # noqa: D102
        device = self.bridge or self._taps.get(ip)
        return None if device is None else links.ask(device, ip, deadline)

    def serve(self, offer: Offer, network: Network) -> Service:  # noqa: ARG002, D102
        raise no_service(
            network,
            f"the host takes part in it itself, as {self._gateway}: listen there"
            if self._gateway
            else "the host takes part in it itself: give its device an address, and listen there",
        )

    def close(self) -> None:  # noqa: D102
        if self.bridge is not None and self._made is not None:
            self._made.remove(self.bridge)
