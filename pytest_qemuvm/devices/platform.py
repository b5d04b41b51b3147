"""Small devices that belong to the machine rather than to a test: identity, screen, panic notice, balloon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.devices.steps import AddDevice, Fragment

if TYPE_CHECKING:
    from pytest_qemuvm.devices.place import Place


def vm_generation_id(place: Place) -> Fragment:
    """Return the device by which a guest kernel learns that it was restored, and takes new entropy."""
    return Fragment(place.id, "vmgenid", (AddDevice("vmgenid", place.id, {"guid": "auto"}),))


def panic_notifier(place: Place) -> Fragment:
    """Return the ISA device through which a panicking guest kernel says so: event GUEST_PANICKED."""
    return Fragment(place.id, "pvpanic", (AddDevice("pvpanic", place.id),))


def display(place: Place) -> Fragment:
    """Return a graphics adapter without a boot ROM, which would cost time at every start."""
    return Fragment(place.id, "display", (AddDevice("bochs-display", place.id, place.on_bus(romfile="")),))


def balloon(place: Place) -> Fragment:
    """Return a memory balloon."""
    return Fragment(place.id, "balloon", (AddDevice(place.virtio("balloon"), place.id, place.on_bus()),))
