"""Any device that QEMU has, by the name of its driver: for what has no kind of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, Fragment
from pytest_qemuvm.spec.devices import DriverSpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Bus, Parting, Supplies
    from pytest_qemuvm.spec.devices import DriverBus

_BUSES: dict[DriverBus, Bus] = {
    "pci": "slot",
    "usb": "usb",
    "scsi": "scsi",
    "virtio-serial": "vserial",
    "none": "board",
}
_AT_ONCE = ("usb", "scsi", "virtio-serial")


def _bus(spec: DriverSpec) -> Bus:
    return _BUSES[spec.bus]


def _fragment(spec: DriverSpec, supplies: Supplies) -> Fragment:
    name = supplies.place.id
    properties = {**supplies.place.on_bus(), **spec.properties}
    return Fragment(name, "driver", (AddDevice(spec.driver, name, properties),))


def _seen(spec: DriverSpec, supplies: Supplies) -> str | None:
    """Return what holds in a guest whose bus has it; whether a driver serves it is the test's to say.

    None where QEMU has no address for it.
    """
    facts = supplies.facts
    if not facts:
        return None
    match spec.bus:
        case "pci":
            return f"ls {facts['at']}/vendor"
        case "usb":
            return f"ls -d /sys/bus/usb/devices/*-{facts['port']}"
        case "scsi":
            # Below a virtio controller: a USB disk is a SCSI host of its own.
            return f"ls -d /sys/devices/pci*/*/virtio*/host*/target*/*:{facts['scsi']}"
        case "virtio-serial":
            return f"ls -d /sys/class/virtio-ports/vport*p{facts['nr']}"
        case "none":
            return None


def _parting(spec: DriverSpec) -> Parting:
    return "at once" if spec.bus in _AT_ONCE else "asked"


DRIVER = DeviceKind("driver", DriverSpec, _bus, _fragment, _seen, parting=_parting, needs="address")
