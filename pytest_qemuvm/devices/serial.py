"""Ports of the virtio-serial controller: the agent's, and those that a test asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.steps import AddDevice, AddSocketChardev, Fragment

if TYPE_CHECKING:
    from pytest_qemuvm.devices.place import Place


def serial_port(place: Place, name: str, fd: str) -> Fragment:
    """Return a port that the guest finds as ``/dev/virtio-ports/<name>``; the harness holds the other end."""
    return Fragment(
        place.id,
        "serial",
        (
            AddSocketChardev(f"{place.id}-chr", fd),
            AddDevice(
                "virtserialport", place.id, {"bus": place.bus, "chardev": f"{place.id}-chr", "name": name}
            ),
        ),
    )
