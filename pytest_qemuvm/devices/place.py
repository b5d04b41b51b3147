"""Where a device goes. The plan decides it; device kinds only use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_qemuvm.spec.devices import Transport


@dataclass(frozen=True, slots=True)
class Place:
    """A device's id and the bus it sits on."""

    id: str
    bus: str | None = None
    """The id of the bus; None where the machine has just one or QEMU may choose."""
    transport: Transport = "pci"
    """How virtio devices reach the guest: microvm has no PCI bus."""
    address: str | None = None

    def on_bus(self, **properties: object) -> dict[str, object]:
        """Return a device's properties with its place added."""
        if self.bus is not None:
            properties["bus"] = self.bus
        if self.address is not None:
            properties["addr"] = self.address
        return properties

    def virtio(self, name: str) -> str:
        """Return the driver of a virtio device here: ``virtio-blk-pci`` or ``virtio-blk-device``."""
        return f"virtio-{name}-{'pci' if self.transport == 'pci' else 'device'}"


@dataclass(frozen=True, slots=True)
class Image:
    """The file behind a disk, as QEMU opens it."""

    path: str
    format: str
    log: str | None = None
    """Of a disk with a volatile cache: the file that all writes and flushes are noted in."""
