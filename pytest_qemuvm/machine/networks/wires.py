"""What a network is made of: something to which NICs can be connected, and that QEMU is handed an end of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from pytest_qemuvm.errors import NetworkInUse, SpecError
from pytest_qemuvm.spec.network import USER_GATEWAY, USER_SERVICES
from pytest_qemuvm.spec.segment import Addressing, is_host

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from io import FileIO
    from ipaddress import IPv4Network

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.switch import Port, Segment, Service, Services, Switchboard
    from pytest_qemuvm.machine.networks.network import Network
    from pytest_qemuvm.plan.links import Words
    from pytest_qemuvm.spec.services import Offer

Backend = Literal["user", "dgram", "tap"]


class Outlet(Protocol):
    """A NIC's place on a wire. It outlives the runs of its VM."""

    @property
    def commands(self) -> tuple[Words, ...]:
        """What has made it on the host."""
        ...

    def open(self, number: int = 0) -> socket.socket | FileIO:
        """Return what the QEMU of a new run is to send and receive on, to be closed by the caller.

        ``number`` says which of its lines, where it has several.
        """
        ...

    def run_ended(self) -> None:
        """Note that the QEMU of a run has ended."""

    def went_back(self) -> None:
        """Note that the machine is what it was some time ago."""

    def close(self) -> None:
        """Give the place up. Idempotent."""


class Wire(Protocol):
    """What NICs are connected to."""

    def connect(self, label: str, mac: str, ip: str | None, vm: str) -> Outlet | None:
        """Make a place for a NIC; ``label`` tells it from others, ``vm`` is the name it is known by."""

    def expect_boot(self, outlet: Outlet) -> None:
        """Have a machine booted over that place without it waiting for what nobody is there to say."""

    def find(self, ip: str, deadline: Deadline) -> str | None:
        """Return the MAC address of who answers for an IP address; None where nobody does in time."""

    def serve(self, offer: Offer, network: Network) -> Service:
        """Have guests reach a service of the host's. Raises SpecError where it is not for the wire to do."""

    def close(self) -> None:
        """Take it down. Idempotent."""


class SegmentOutlet:
    """A NIC's port of a switch."""

    commands: tuple[Words, ...] = ()

    def __init__(self, port: Port) -> None:
        self.port = port

    def open(self, number: int = 0) -> socket.socket:  # noqa: ARG002, D102
        return self.port.renew_peer()

    def run_ended(self) -> None:  # noqa: D102
        self.port.hang_up()

    def went_back(self) -> None:  # noqa: D102
        self.port.part()

    def close(self) -> None:  # noqa: D102
        self.port.close()


class SegmentWire:
    """A segment of the harness's own switch."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment

    def connect(self, label: str, mac: str, ip: str | None, vm: str) -> SegmentOutlet:  # noqa: D102
        return SegmentOutlet(self.segment.connect(label, mac, ip, (vm,) if is_host(vm) else ()))

    def expect_boot(self, outlet: Outlet) -> None:  # noqa: D102
        assert isinstance(outlet, SegmentOutlet)
        self.segment.deny_router(outlet.port)

    def find(self, ip: str, deadline: Deadline) -> str | None:  # noqa: D102
        return self.segment.probe(ip, deadline)

    def serve(self, offer: Offer, network: Network) -> Service:  # noqa: D102
        if not network.spec.addressing:
            raise SpecError(
                f"network {network.name!r} has no address at which {offer} could be served",
                hint="leave addressing=False out",
            )
        return self.segment.serve(offer)

    def close(self) -> None:  # noqa: D102
        self.segment.close()


def no_service(network: Network, hint: str) -> SpecError:
    """Return why nothing of the host's is served on a network."""
    return SpecError(f"network {network.name!r}, which is a {network.kind}, serves nothing", hint=hint)


class ServicesOutlet(SegmentOutlet):
    """A NIC's port of a segment that is there for it alone, and the port of its user-mode networking."""

    def __init__(self, segment: Segment, port: Port, user: Port) -> None:
        super().__init__(port)
        self._segment = segment
        self._ports = port, user

    def open(self, number: int = 0) -> socket.socket:  # noqa: D102
        return self._ports[number].renew_peer()

    def close(self) -> None:  # noqa: D102
        self._segment.close()


class UserWire:
    """User-mode networking: each QEMU makes up a network for its guest alone.

    Where something of the host's is served, a segment of the switch lies between a guest and what QEMU makes
    up for it: one for each guest, so that they do not hear each other.
    """

    def __init__(self, name: str, subnet: IPv4Network, switch: Callable[[], Switchboard]) -> None:
        self._name = name
        self._subnet = subnet
        self._switch = switch
        self._services: Services | None = None

    def connect(  # noqa: D102
        self,
        label: str,
        mac: str,
        ip: str | None,  # noqa: ARG002
        vm: str,  # noqa: ARG002
    ) -> ServicesOutlet | None:
        if self._services is None:
            return None
        addressing = Addressing(self._subnet, self._subnet[USER_SERVICES])
        segment = self._switch().segment(self._name, addressing, self._services)
        try:
            user = segment.connect(f"{label} user", self._gateway_mac(), None)
            return ServicesOutlet(segment, segment.connect(label, mac, None), user)
        except BaseException:
            segment.close()
            raise

    def _gateway_mac(self) -> str:
        """Return the MAC address of the host, as QEMU plays it to a guest."""
        return "52:55:" + self._subnet[USER_GATEWAY].packed.hex(":")

    def expect_boot(self, outlet: Outlet) -> None:
        """Do nothing: QEMU answers by itself."""

    def find(self, ip: str, deadline: Deadline) -> str | None:  # noqa: ARG002, D102
        return None

    def serve(self, offer: Offer, network: Network) -> Service:  # noqa: D102
        if network.spec.outward:
            raise SpecError(
                f"network {network.name!r} lets its guests out, and needs no service for {offer}",
                hint=f"they reach what listens on the host's 127.0.0.1 at {self._subnet[USER_GATEWAY]}",
            )
        if self._services is None:
            # Before it is asked who is connected: whoever is from now on has a line to services.
            self._services = self._switch().services(str(self._subnet[USER_SERVICES]))
            users = tuple(dict.fromkeys(joint.vm for joint in network.joints()))
            if users:
                self._services = None
                raise NetworkInUse(
                    f"network {network.name!r} had no service when {', '.join(users)} came",
                    "on user-mode networking a machine has a line to services or has none, from its start on",
                    "call serve() before machines are connected",
                    users=users,
                )
        return self._services.serve(offer)

    def close(self) -> None:  # noqa: D102
        if self._services is not None:
            self._services.close()
