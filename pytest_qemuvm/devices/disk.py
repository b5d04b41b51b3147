"""Disks: an image file, its format, and the device on one of four buses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.steps import AddBlockNode, AddDevice, Fragment

if TYPE_CHECKING:
    from pytest_qemuvm.devices.place import Image, Place
    from pytest_qemuvm.spec.devices import DiskSpec

DRIVERS = {"scsi": "scsi-hd", "nvme": "nvme", "usb": "usb-storage"}
"""The device on each bus; virtio's name depends on the transport."""


def disk(spec: DiskSpec, place: Place, image: Image) -> Fragment:
    """Return a disk: file node, format node, device.

    File and format are nodes of their own, because they must be removed one by one, the upper one first.
    """
    file_node, format_node = f"{place.id}-file", f"{place.id}-fmt"
    properties: dict[str, Any] = place.on_bus(drive=format_node)
    # NVMe refuses to exist without a serial.
    serial = spec.serial or (place.id if spec.bus == "nvme" else None)
    if serial:
        properties["serial"] = serial
    return Fragment(
        place.id,
        "disk",
        (
            AddBlockNode("file", file_node, {"filename": image.path, "read-only": spec.read_only}),
            AddBlockNode(
                image.format,
                format_node,
                {"file": file_node, "read-only": spec.read_only, "discard": "unmap"},
            ),
            AddDevice(DRIVERS.get(spec.bus) or place.virtio("blk"), place.id, properties),
        ),
    )
