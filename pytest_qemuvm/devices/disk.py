"""Disks: an image file, its format, and the device on one of four buses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddBlockNode, AddDevice, Fragment
from pytest_qemuvm.errors import SpecError
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_qemuvm.devices.kind import Bus, Parting, Supplies
    from pytest_qemuvm.devices.place import Image, Place

DRIVERS = {"scsi": "scsi-hd", "nvme": "nvme", "usb": "usb-storage"}
"""The device on each bus; virtio's name depends on the transport."""
SECTOR = 512
"""Bytes: the unit in which disks and the notes of writes to them count."""


def disk(spec: DiskSpec, place: Place, image: Image, bootindex: int | None = None) -> Fragment:
    """Return a disk: file node, format node, device; with a ``bootindex`` the firmware may boot it.

    File and format are nodes of their own, because they must be removed one by one, the upper one first.
    """
    file_node, top = f"{place.id}-file", format_node(place.id)
    cache = tuple(_noting_writes(place.id, image.log)) if image.log is not None else ()
    properties: dict[str, Any] = place.on_bus(drive=cache[-1].node_name if cache else top)
    properties["serial"] = serial_of(spec, place.id)
    if bootindex is not None:
        properties["bootindex"] = bootindex
    if spec.on_error is not None:
        properties |= {"werror": spec.on_error, "rerror": spec.on_error}
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
            *cache,
            AddDevice(DRIVERS.get(spec.bus) or place.virtio("blk"), place.id, properties),
        ),
    )


def _noting_writes(name: str, log: str) -> Iterator[AddBlockNode]:
    """Yield the nodes, over the format, that note what is written and flushed.

    Over them is one that has QEMU make a flush of each write that is to be durable by itself (FUA): done by
    the noting node, a flush that follows another one is not noted (QEMU 7.2 and 10.0).
    """
    yield AddBlockNode("file", f"{name}-log", {"filename": log})
    below = {"file": format_node(name), "log": f"{name}-log", "log-sector-size": SECTOR, "discard": "unmap"}
    yield AddBlockNode("blklogwrites", f"{name}-writes", below)
    yield AddBlockNode("raw", f"{name}-cache", {"file": f"{name}-writes", "discard": "unmap"})


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
    if spec.volatile_cache and supplies.image.log is None:
        raise SpecError(
            "volatile_cache: only disks that a VM is started with can have one",
            hint="disks=[DiskSpec(..., volatile_cache=True)]",
        )
    return disk(spec, supplies.place, supplies.image, supplies.bootindex)


def _seen(spec: DiskSpec, supplies: Supplies) -> str:
    return f"ls /dev/disk/by-id/*[-_]{serial_of(spec, supplies.place.id)}"


def _parting(spec: DiskSpec) -> Parting:
    return "at once" if spec.bus in ("scsi", "usb") else "asked"


DISK = DeviceKind("disk", DiskSpec, _bus, _fragment, _seen, parting=_parting, needs="image")
