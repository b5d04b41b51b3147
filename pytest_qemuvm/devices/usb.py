"""USB input devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddDevice, Fragment
from pytest_qemuvm.spec.devices import UsbSpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Supplies
    from pytest_qemuvm.devices.place import Place


def usb(spec: UsbSpec, place: Place) -> Fragment:
    """Return a USB keyboard, mouse or tablet."""
    properties = {**place.on_bus(serial=place.id), **spec.properties}
    return Fragment(place.id, "usb", (AddDevice(f"usb-{spec.kind}", place.id, properties),))


def _fragment(spec: UsbSpec, supplies: Supplies) -> Fragment:
    return usb(spec, supplies.place)


def _seen(_spec: UsbSpec, supplies: Supplies) -> str:
    return f"grep -qx {supplies.place.id} /sys/bus/usb/devices/*/serial"


USB = DeviceKind("usb", UsbSpec, lambda _spec: "usb", _fragment, _seen, parting=lambda _spec: "at once")
