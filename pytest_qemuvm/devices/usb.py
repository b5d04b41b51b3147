"""USB input devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.steps import AddDevice, Fragment

if TYPE_CHECKING:
    from pytest_qemuvm.devices.place import Place
    from pytest_qemuvm.spec.devices import UsbSpec


def usb(spec: UsbSpec, place: Place) -> Fragment:
    """Return a USB keyboard, mouse or tablet."""
    return Fragment(place.id, "usb", (AddDevice(f"usb-{spec.kind}", place.id, place.on_bus()),))
