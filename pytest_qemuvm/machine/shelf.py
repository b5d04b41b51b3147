"""All disks of a session, by name."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_qemuvm.errors import DiskExists, DiskNotFound, nearest
from pytest_qemuvm.machine.disks import SERIAL_LENGTH, Disk, DiskRecord
from pytest_qemuvm.plan.model import ImagePlan
from pytest_qemuvm.spec.names import checked_name

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_qemuvm.devices.place import Image
    from pytest_qemuvm.host.provision import Provisioner
    from pytest_qemuvm.spec.devices import DiskSpec


class DiskShelf:
    """All disks of a session."""

    def __init__(self, directory: Path, provisioner: Provisioner) -> None:
        self.directory = directory
        self._provisioner = provisioner
        self._disks: dict[str, tuple[Disk, str]] = {}
        self._numbers = 0
        self._lock = threading.Lock()

    def make(
        self, spec: DiskSpec, name: str | None, owner: str, template: tuple[str, Image] | None = None
    ) -> Disk:
        """Make a disk: its file exists, with that virtual size, before its record does.

        With the name and the image of a ``template`` it is an overlay on that.

        Raises DiskExists, SpecError for a name or spec that cannot be right, QemuVMError where the file
        cannot be written; nothing is left then.
        """
        with self._lock:
            name = self._unused_name() if name is None else checked_name(name, "disk")
            if name in self._disks:
                raise DiskExists(f"there is a disk {name!r} already", f"made for {self._disks[name][1]}")
            path = self.directory / f"{name}.{spec.format}"
            below = template[1] if template else None
            backing = (below.path, below.format) if below else (None, None)
            self._provisioner.make_disk(ImagePlan(str(path), spec.format, spec.bytes, *backing))
            serial = spec.serial or name[:SERIAL_LENGTH]
            disk = Disk(
                DiskRecord(name, path, spec.format, spec.bytes, serial, template[0] if template else None),
                self._remove,
                self._provisioner.grow_disk,
            )
            self._disks[name] = disk, owner
        return disk

    def get(self, name: str) -> Disk:
        """Return a disk by name. Raises DiskNotFound."""
        with self._lock:
            if name in self._disks:
                return self._disks[name][0]
            known = list(self._disks)
        raise DiskNotFound(f"no disk {name!r} in this session", hint=nearest(name, known) if known else None)

    def all(self, owner: str | None = None) -> list[Disk]:
        """Return all disks, or those made for an owner."""
        with self._lock:
            return [disk for disk, made_for in self._disks.values() if owner in (None, made_for)]

    def with_owners(self) -> list[tuple[Disk, str]]:
        """Return all disks, each with whom it was made for."""
        with self._lock:
            return list(self._disks.values())

    def _unused_name(self) -> str:
        while True:
            name = f"disk-{self._numbers}"
            self._numbers += 1
            if name not in self._disks:
                return name

    def _remove(self, disk: Disk) -> None:
        # In one step for whoever looks: neither a record without a file nor a file without a record.
        with self._lock:
            disk.path.unlink(missing_ok=True)
            self._disks.pop(disk.name, None)
