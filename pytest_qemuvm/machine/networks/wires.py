"""What a network is made of: something to which NICs can be connected, and that QEMU is handed an end of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from pytest_qemuvm.spec.segment import is_host

if TYPE_CHECKING:
    import socket
    from io import FileIO

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.host.switch import Port, Segment
    from pytest_qemuvm.plan.links import Words

Backend = Literal["user", "dgram", "tap"]


class Outlet(Protocol):
    """A NIC's place on a wire. It outlives the runs of its VM."""

    @property
    def commands(self) -> tuple[Words, ...]:
        """What has made it on the host."""
        ...

    def open(self) -> socket.socket | FileIO:
        """Return what the QEMU of a new run is to send and receive on, to be closed by the caller."""
        ...

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

    def close(self) -> None:
        """Take it down. Idempotent."""


class SegmentOutlet:
    """A NIC's port of a switch."""

    commands: tuple[Words, ...] = ()

    def __init__(self, port: Port) -> None:
        self.port = port

    def open(self) -> socket.socket:  # noqa: D102
        return self.port.renew_peer()

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

    def close(self) -> None:  # noqa: D102
        self.segment.close()


class NoWire:
    """User-mode networking: each QEMU makes up a network for its guest alone."""

    def connect(self, label: str, mac: str, ip: str | None, vm: str) -> None:  # noqa: ARG002, D102
        return

    def expect_boot(self, outlet: Outlet) -> None:
        """Do nothing: QEMU answers by itself."""

    def find(self, ip: str, deadline: Deadline) -> str | None:  # noqa: ARG002, D102
        return None

    def close(self) -> None:  # noqa: D102
        return
