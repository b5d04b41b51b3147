"""Disks: an image file, its format, and the device on one of four buses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddBlockNode, AddDevice, Fragment
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from pytest_qemuvm.devices.kind import Bus, Parting, Supplies
    from pytest_qemuvm.devices.place import Image, Place

DRIVERS = {"scsi": "scsi-hd", "nvme": "nvme", "usb": "usb-storage"}
"""The device on each bus; virtio's name depends on the transport."""


def disk(spec: DiskSpec, place: Place, image: Image, bootindex: int | None = None) -> Fragment:
    """Return a disk: file node, format node, device; with a ``bootindex`` the firmware may boot it.

    File and format are nodes of their own, because they must be removed one by one, the upper one first.
    """
    file_node, top = f"{place.id}-file", format_node(place.id)
    properties: dict[str, Any] = place.on_bus(drive=top)
    properties["serial"] = serial_of(spec, place.id)
    if bootindex is not None:
        properties["bootindex"] = bootindex
    properties.update(spec.properties)
    return Fragment(
        place.id,
        "disk",
        (
            AddBlockNode("file", file_node, {"filename": image.path, "read-only": spec.read_only}),
            AddBlockNode(
                image.format,
                top,
                {"file": file_node, "read-only": spec.read_only, "discard": "unmap"},
            ),
            AddDevice(DRIVERS.get(spec.bus) or place.virtio("blk"), place.id, properties),
        ),
    )


def format_node(name: str) -> str:
    """Return the node that a disk of that id is on: what it is resized, saved and counted by."""
    return f"{name}-fmt"


def serial_of(spec: DiskSpec, name: str) -> str:
    """Return the serial by which the guest tells a disk from all others: its id, unless the spec has one."""
    return spec.serial or name


def _bus(spec: DiskSpec) -> Bus:
    return spec.bus if spec.bus in ("scsi", "usb") else "slot"


def _fragment(spec: DiskSpec, supplies: Supplies) -> Fragment:
    assert supplies.image is not None
    return disk(spec, supplies.place, supplies.image, supplies.bootindex)


def _seen(spec: DiskSpec, supplies: Supplies) -> str:
    return f"ls /dev/disk/by-id/*[-_]{serial_of(spec, supplies.place.id)}"


def _parting(spec: DiskSpec) -> Parting:
    return "at once" if spec.bus in ("scsi", "usb") else "asked"


DISK = DeviceKind("disk", DiskSpec, _bus, _fragment, _seen, parting=_parting, needs="image")
