"""CD drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.kind import DeviceKind
from pytest_qemuvm.devices.steps import AddBlockNode, AddDevice, Fragment
from pytest_qemuvm.spec.devices import CdromSpec

if TYPE_CHECKING:
    import os

    from pytest_qemuvm.devices.kind import Supplies

FIRST_TARGET, LAST_TARGET = 128, 255
"""SCSI targets for CD drives; QEMU numbers disks from 0 by itself."""


def medium(path: str | os.PathLike[str], name: str) -> tuple[AddBlockNode, AddBlockNode]:
    """Return the nodes of a medium; what it holds is never guessed: it is raw."""
    return (
        AddBlockNode("file", f"{name}-file", {"filename": str(path), "read-only": True}),
        AddBlockNode("raw", f"{name}-fmt", {"file": f"{name}-file", "read-only": True}),
    )


def _target(name: str) -> int:
    """Return a SCSI target of the drive's own: Linux does not ask a CD drive for its serial."""
    return FIRST_TARGET + int(name.removeprefix("cdrom")) % (LAST_TARGET - FIRST_TARGET + 1)


def _fragment(spec: CdromSpec, supplies: Supplies) -> Fragment:
    name = supplies.place.id
    properties: dict[str, Any] = supplies.place.on_bus(serial=name, **{"scsi-id": _target(name)})
    nodes = medium(spec.path, name) if spec.path is not None else ()
    if nodes:
        properties["drive"] = nodes[-1].node_name
    properties.update(spec.properties)
    return Fragment(name, "cdrom", (*nodes, AddDevice("scsi-cd", name, properties)))


def _seen(_spec: CdromSpec, supplies: Supplies) -> str:
    return f"ls /sys/bus/scsi/devices/*:0:{_target(supplies.place.id)}:0/block/sr*"


CDROM = DeviceKind(
    "cdrom", CdromSpec, lambda _spec: "scsi", _fragment, _seen, parting=lambda _spec: "at once"
)
