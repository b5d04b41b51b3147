"""Disks of their own: an image file with a record, attached to one VM after the other."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.disk import format_node
from pytest_qemuvm.devices.place import Image
from pytest_qemuvm.errors import (
    AlreadyAttached,
    DiskStateError,
    InUse,
    NotAttached,
    SpecError,
    WaitTimeout,
)
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.spec.devices import DiskSpec
from pytest_qemuvm.spec.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.vm import VM
    from pytest_qemuvm.spec.devices import DiskBus, DiskFormat
    from pytest_qemuvm.spec.properties import PropertyValue

RESIZE_SECONDS = 30.0
SERIAL_LENGTH = 20
"""Characters of a serial that virtio passes on to the guest."""
TURN_SECONDS = 90.0
"""How long another thread's plug or unplug is waited for."""


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
        self, record: DiskRecord, remove: Callable[[Disk], None], grow: Callable[[Path, str, int], None]
    ) -> None:
        self.record = record
        self._grow_image = grow
        self._remove = remove
        self._attached: list[tuple[VM, HotDevice]] = []
        self._changing = threading.Lock()
        """Held while it is attached, detached, resized or deleted, by one thread after the other."""
        self._noting = threading.Lock()
        """Held for a moment by whoever reads or writes the record: observers never wait for a change."""

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
        return self._observed()[0]

    @property
    def holder(self) -> str | None:
        """The name of the VM that it is attached to."""
        return self._observed()[1]

    def delete(self) -> None:
        """Remove file and record. Raises InUse, naming the VM, while it is attached."""
        with self._turn(Deadline.after(TURN_SECONDS)):
            self._delete()

    def _delete(self) -> None:
        state, holder = self._observed()
        if state == "attached":
            assert holder is not None
            raise InUse(
                f"disk {self.name!r} is attached to VM {holder!r}", hint="detach it first", holder=holder
            )
        self._remove(self)

    def resize(self, size: int | str, timeout: float = RESIZE_SECONDS) -> None:
        """Make it larger, also while it is attached: QEMU, and the guest if there is one, has the size then.

        Raises SpecError for a size that is smaller than it was, because what lies beyond would be lost; InUse
        where it is attached read-only, or QEMU did not let it go although its device has gone; WaitTimeout.
        """
        wanted = parse_size(size, "disk size")
        if wanted % 512 or wanted < self.size:
            raise SpecError(f"disk {self.name!r} cannot go from {self.size} to {wanted} bytes")
        deadline = Deadline.after(timeout)
        with self._turn(deadline):
            attached = self._settled()
            for vm, device in attached:
                if _is_read_only(device) or not device.present:
                    how = "attached read-only" if device.present else "not let go"
                    raise InUse(f"disk {self.name!r} is {how} by VM {vm.name!r}", holder=vm.name)
            for vm, device in attached:
                self._resize_attached(vm, device, wanted, deadline.remaining)
            if not attached:
                self._grow(wanted)
            self.record.size = wanted

    def _resize_attached(self, vm: VM, device: HotDevice, size: int, timeout: float) -> None:
        live = vm.live
        # Of what is in front of it, only the uppermost node tells the device.
        node = live.layers.top(device) if live is not None else format_node(device.id)
        command = {"node-name": node, "size": size}
        vm.monitor.execute("block_resize", command, timeout=timeout)
        if vm.plan.guest and vm.has_guest and vm.state == "running":
            link = f"/dev/disk/by-id/*[-_]{self.serial}"
            vm.wait_until_succeeds(f"test $(blockdev --getsize64 {link}) = {size}", timeout)

    def discard(self) -> None:
        """Take it away from whoever has it, and delete it: the end of what ``disk_factory`` made."""
        with self._turn(Deadline.after(TURN_SECONDS)):
            for _, device in self._settled():
                device.unplug()
            # Whatever a test made of its record.
            self.record.state, self.record.holder = "available", None
            self._delete()

    def launch_spec(self) -> DiskSpec:
        """Return it as a spec for ``disks=``: the VM has it from its start."""
        return DiskSpec(path=self.path, format=self._format, serial=self.serial, handle=self)

    def check_free_for(self, vm: VM) -> None:
        """Raise AlreadyAttached unless a VM that is about to start may have it."""
        with self._turn(Deadline.after(TURN_SECONDS)):
            attached = self._settled()
            if attached:
                holder = attached[0][0].name
                raise AlreadyAttached(
                    f"disk {self.name!r}, which VM {vm.name!r} starts with, is attached to VM {holder!r}",
                    hint="detach it there first",
                    holder=holder,
                )

    def attached_from_start(self, vm: VM, device: HotDevice) -> None:
        """Note that a VM has started with it."""
        self._note(vm, device)

    @contextmanager
    def coming_back(self, vm: VM, leaving: Sequence[HotDevice], deadline: Deadline) -> Iterator[None]:
        """Hold it while a VM that goes back to a snapshot takes it again; ``leaving`` devices count as gone.

        Raises AlreadyAttached, naming the holder.
        """
        with self._turn(deadline):
            for holder, device in self._settled():
                if not (holder is vm and device in leaving):
                    raise AlreadyAttached(
                        f"disk {self.name!r}, which the snapshot of VM {vm.name!r} needs, is attached to VM "
                        f"{holder.name!r}",
                        hint="detach it there first",
                        holder=holder.name,
                    )
            yield

    def came_back(self, vm: VM, device: HotDevice, size: int) -> None:
        """Note that a VM has gone back to a snapshot in which it had that size and device."""
        self.record.size = size
        if (vm, device) not in self._settled():
            self._note(vm, device)

    def attach(
        self,
        vm: VM,
        bus: DiskBus,
        *,
        read_only: bool,
        properties: Mapping[str, PropertyValue],
        timeout: float,
    ) -> HotDevice:
        """Attach it; see ``VM.attach``."""
        spec = DiskSpec(
            size=self.size,
            bus=bus,
            serial=self.serial,
            format=self._format,
            read_only=read_only,
            properties=properties,
        )
        deadline = Deadline.after(timeout)
        with self._turn(deadline):
            attached = self._settled()
            sharing = read_only and all(_is_read_only(device) for _, device in attached)
            if attached and (not sharing or vm in [holder for holder, _ in attached]):
                holder = attached[0][0].name
                raise AlreadyAttached(
                    f"disk {self.name!r} is attached to VM {holder!r}",
                    hint="detach it there first; several VMs may share it with read_only=True",
                    holder=holder,
                )
            if not self.path.exists():
                raise DiskStateError(f"the file of disk {self.name!r} is gone", str(self.path))
            device = vm.plug(spec, Image(str(self.path), self._format), deadline.remaining)
            self._note(vm, device)
        return device

    def detach(self, vm: VM, timeout: float) -> None:
        """Detach it; see ``VM.detach``."""
        deadline = Deadline.after(timeout)
        with self._turn(deadline):
            for holder, device in self._settled():
                if holder is vm:
                    device.unplug(deadline.remaining)
                    self._settled()
                    return
            where = f"it is attached to {self.holder!r}" if self.holder else "it is attached to none"
            raise NotAttached(f"disk {self.name!r} is not attached to VM {vm.name!r}", where)

    @contextmanager
    def _turn(self, deadline: Deadline) -> Iterator[None]:
        """Wait until no other thread changes it. Raises WaitTimeout."""
        if not self._changing.acquire(timeout=deadline.remaining):
            raise WaitTimeout(
                f"another thread changes disk {self.name!r}, and has done so for {deadline.seconds:g} s",
                waited_for=f"the other thread's change of disk {self.name!r}",
                seconds=deadline.seconds,
            )
        try:
            yield
        finally:
            self._changing.release()

    def _grow(self, size: int) -> None:
        self._grow_image(self.path, self.record.format, size)

    @property
    def _format(self) -> DiskFormat:
        return "raw" if self.record.format == "raw" else "qcow2"

    def _note(self, vm: VM, device: HotDevice) -> None:
        """Note that a VM has it."""
        with self._noting:
            self._attached.append((vm, device))
            self.record.state, self.record.holder = "attached", self._attached[0][0].name

    def _settled(self) -> list[tuple[VM, HotDevice]]:
        """Return who has it, after taking note of devices that went by themselves or with their machine.

        A device that has gone while QEMU still has the file open counts: nobody else can have the file.
        """
        with self._noting:
            before = len(self._attached)
            self._attached = [(vm, device) for vm, device in self._attached if device.present or device.left]
            if before and not self._attached:
                self.record.state, self.record.holder = "available", None
            return list(self._attached)

    def _observed(self) -> tuple[str, str | None]:
        """Return state and holder as of one moment."""
        self._settled()
        with self._noting:
            return self.record.state, self.record.holder


def _is_read_only(device: HotDevice) -> bool:
    return isinstance(device.spec, DiskSpec) and device.spec.read_only
