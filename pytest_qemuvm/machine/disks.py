"""Disks of their own: an image file with a record, attached to one VM after the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.errors import (
    AlreadyAttached,
    DiskExists,
    DiskNotFound,
    DiskStateError,
    InUse,
    NotAttached,
    SpecError,
    nearest,
)
from pytest_qemuvm.plan.model import ImagePlan
from pytest_qemuvm.spec.devices import DiskSpec
from pytest_qemuvm.spec.names import checked_name
from pytest_qemuvm.spec.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_qemuvm.host.provision import Provisioner
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.spec.devices import DiskBus, DiskFormat

RESIZE_SECONDS = 30.0
SERIAL_LENGTH = 20
"""Characters of a serial that virtio passes on to the guest."""


@dataclass
class DiskRecord:
    """What was recorded of a disk, to be compared with what is the case; tests may falsify it."""

    name: str
    path: Path
    format: str
    size: int
    """Virtual size in bytes."""
    serial: str
    template: str | None = None
    """The template that it is an overlay on."""
    state: str = "available"
    """``available`` or ``attached``."""
    holder: str | None = None
    """The VM that it is attached to."""


class Disk:
    """An image file that VMs can be given and that outlives them; made by ``disk_factory``."""

    def __init__(
        self, record: DiskRecord, forget: Callable[[Disk], None], grow: Callable[[Path, str, int], None]
    ) -> None:
        self.record = record
        self._grow_image = grow
        self._forget = forget
        self._attached: list[tuple[VM, HotDevice]] = []
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Disk {self.name!r}: {self.record.format}, {self.size} bytes, {self.state}>"

    @property
    def name(self) -> str:
        """Its name, unique in the session."""
        return self.record.name

    @property
    def path(self) -> Path:
        """Its image file."""
        return self.record.path

    @property
    def size(self) -> int:
        """Its virtual size in bytes."""
        return self.record.size

    @property
    def serial(self) -> str:
        """What the guest finds it by under ``/dev/disk/by-id``."""
        return self.record.serial

    @property
    def state(self) -> str:
        """``available`` or ``attached``."""
        self._settle()
        return self.record.state

    @property
    def holder(self) -> str | None:
        """The name of the VM that it is attached to."""
        self._settle()
        return self.record.holder

    def delete(self) -> None:
        """Remove file and record. Raises InUse, naming the VM, while it is attached."""
        with self._lock:
            if self.state == "attached":
                assert self.holder is not None
                raise InUse(
                    f"disk {self.name!r} is attached to VM {self.holder!r}",
                    hint="detach it first",
                    holder=self.holder,
                )
            self.path.unlink(missing_ok=True)
            self._forget(self)

    def resize(self, size: int | str, timeout: float = RESIZE_SECONDS) -> None:
        """Make it larger, also while it is attached: QEMU, and the guest if there is one, has the size then.

        Raises SpecError for a size that is smaller than it was, because what lies beyond would be lost.
        """
        wanted = parse_size(size, "disk size")
        if wanted % 512 or wanted < self.size:
            raise SpecError(f"disk {self.name!r} cannot go from {self.size} to {wanted} bytes")
        with self._lock:
            self._settle()
            if any(_is_read_only(device) for _, device in self._attached):
                raise InUse(f"disk {self.name!r} is attached read-only", holder=self._attached[0][0].name)
            for vm, device in self._attached:
                self._resize_attached(vm, device, wanted, timeout)
            if not self._attached:
                self._grow(wanted)
            self.record.size = wanted

    def _resize_attached(self, vm: VM, device: HotDevice, size: int, timeout: float) -> None:
        vm.qmp.execute("block_resize", {"node-name": f"{device.id}-fmt", "size": size}, timeout=timeout)
        if vm.plan.guest and vm.state == "running":
            link = f"/dev/disk/by-id/*[-_]{self.serial}"
            vm.wait_until_succeeds(f"test $(blockdev --getsize64 {link}) = {size}", timeout)

    def discard(self) -> None:
        """Take it away from whoever has it, and delete it: the end of what ``disk_factory`` made."""
        with self._lock:
            self._settle()
            for _, device in self._attached:
                device.unplug()
            self.delete()

    def launch_spec(self) -> DiskSpec:
        """Return it as a spec for ``disks=``: the VM has it from its start."""
        return DiskSpec(path=self.path, format=self._format, serial=self.serial, handle=self)

    def check_free_for(self, vm: VM) -> None:
        """Raise AlreadyAttached unless a VM that is about to start may have it."""
        with self._lock:
            self._settle()
            if self._attached:
                holder = self._attached[0][0].name
                raise AlreadyAttached(
                    f"disk {self.name!r}, which VM {vm.name!r} starts with, is attached to VM {holder!r}",
                    hint="detach it there first",
                    holder=holder,
                )

    def attached_from_start(self, vm: VM, device: HotDevice) -> None:
        """Note that a VM has started with it."""
        with self._lock:
            self._attached.append((vm, device))
            self.record.state, self.record.holder = "attached", vm.name

    def attach(self, vm: VM, bus: DiskBus, *, read_only: bool, timeout: float) -> HotDevice:
        """Attach it; see ``VM.attach``."""
        spec = DiskSpec(size=self.size, bus=bus, serial=self.serial, format=self._format, read_only=read_only)
        with self._lock:
            self._settle()
            sharing = read_only and all(_is_read_only(device) for _, device in self._attached)
            if self._attached and (not sharing or vm in [holder for holder, _ in self._attached]):
                holder = self._attached[0][0].name
                raise AlreadyAttached(
                    f"disk {self.name!r} is attached to VM {holder!r}",
                    hint="detach it there first; several VMs may share it with read_only=True",
                    holder=holder,
                )
            if not self.path.exists():
                raise DiskStateError(f"the file of disk {self.name!r} is gone", str(self.path))
            device = vm.plug(spec, Image(str(self.path), self._format), timeout)
            self._attached.append((vm, device))
            self.record.state, self.record.holder = "attached", self._attached[0][0].name
        return device

    def detach(self, vm: VM, timeout: float) -> None:
        """Detach it; see ``VM.detach``."""
        with self._lock:
            self._settle()
            for holder, device in self._attached:
                if holder is vm:
                    device.unplug(timeout)
                    self._settle()
                    return
            where = f"it is attached to {self.holder!r}" if self.holder else "it is attached to none"
            raise NotAttached(f"disk {self.name!r} is not attached to VM {vm.name!r}", where)

    def _grow(self, size: int) -> None:
        self._grow_image(self.path, self.record.format, size)

    @property
    def _format(self) -> DiskFormat:
        return "raw" if self.record.format == "raw" else "qcow2"

    def _settle(self) -> None:
        """Take note of devices that were unplugged by themselves or went with their machine."""
        with self._lock:
            before = len(self._attached)
            self._attached = [(vm, device) for vm, device in self._attached if device.present]
            if before and not self._attached:
                self.record.state, self.record.holder = "available", None


def _is_read_only(device: HotDevice) -> bool:
    return isinstance(device.spec, DiskSpec) and device.spec.read_only


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
                self._forget,
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

    def _forget(self, disk: Disk) -> None:
        with self._lock:
            self._disks.pop(disk.name, None)
