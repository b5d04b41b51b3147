"""What other devices are plugged into: root ports, and the controllers for SCSI, USB and virtio-serial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.steps import AddDevice, Fragment

if TYPE_CHECKING:
    from pytest_qemuvm.devices.place import Place


def root_port_address(number: int) -> tuple[int, int]:
    """Return slot and function of a root port, by its number from 0: eight share a slot."""
    return 0x10 + number // 8, number % 8


def root_port(place: Place, number: int) -> Fragment:
    """Return a PCI Express root port: pcie.0 itself takes no device while the machine runs.

    Eight ports share a slot as its functions, so ``number`` (from 0) decides the address; the chassis tells
    the ports apart for the guest and must be unique.
    """
    slot, function = root_port_address(number)
    properties: dict[str, object] = {
        "bus": place.bus,
        "addr": f"{slot:#x}.{function}",
        "chassis": number + 1,
    }
    if function == 0:
        properties["multifunction"] = True
    return Fragment(place.id, "root-port", (AddDevice("pcie-root-port", place.id, properties),))


def serial_controller(place: Place) -> Fragment:
    """Return the virtio-serial controller that the agent's ports sit on."""
    return Fragment(place.id, "controller", (AddDevice(place.virtio("serial"), place.id, place.on_bus()),))


def scsi_controller(place: Place) -> Fragment:
    """Return a virtio-scsi controller: its LUNs come and go without a guest's consent."""
    return Fragment(place.id, "controller", (AddDevice(place.virtio("scsi"), place.id, place.on_bus()),))


def usb_controller(place: Place) -> Fragment:
    """Return an xHCI controller."""
    return Fragment(place.id, "controller", (AddDevice("qemu-xhci", place.id, place.on_bus()),))
