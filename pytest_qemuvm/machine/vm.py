"""The VM: the handle that a test holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.machine.enduring import Enduring
from pytest_qemuvm.machine.hotdevice import UNPLUG_SECONDS
from pytest_qemuvm.machine.hotplug import PLUG_SECONDS
from pytest_qemuvm.machine.inside import Inside
from pytest_qemuvm.machine.moments import Moments
from pytest_qemuvm.machine.outside import Outside
from pytest_qemuvm.spec.devices import DiskSpec
from pytest_qemuvm.spec.properties import NO_PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.faults.facade import VMFaults
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.spec.devices import DiskBus
    from pytest_qemuvm.spec.properties import PropertyValue


class VM(Inside, Outside, Moments, Enduring):
    """A virtual machine of a test, made by ``vm_factory``.

    Its life is in ``lifecycle``, what a test does in its guest in ``inside``, what it does to it from outside
    in ``outside``; how it goes back, and goes on twice, in ``moments``; what faults do to it, in
    ``enduring``.
    """

    @property
    def faults(self) -> VMFaults:
        """What can be made to go wrong in it; each heals itself at the end of the test at the latest."""
        from pytest_qemuvm.machine.faults.facade import VMFaults  # noqa: PLC0415  # few tests break things

        return VMFaults(self, self._services.faults)

    def _start(self) -> None:
        """Start it with the disks of ``disk_factory`` that its spec names, which must be free."""
        for spec in self.spec.disks:
            if spec.handle is not None:
                spec.handle.check_free_for(self)
        super()._start()
        for device in self.devices:
            if isinstance(device.spec, DiskSpec) and device.spec.handle is not None:
                device.spec.handle.attached_from_start(self, device)

    def attach(
        self,
        disk: Disk,
        *,
        bus: DiskBus = "virtio",
        read_only: bool = False,
        properties: Mapping[str, PropertyValue] = NO_PROPERTIES,
        timeout: float = PLUG_SECONDS,
    ) -> HotDevice:
        """Attach a disk to the running machine and return when QEMU, and the guest, has it.

        ``properties`` are those of a DiskSpec. Raises SpecError where QEMU does not have or refuses them,
        NotRunning, and AlreadyAttached, naming the holder, where the disk is attached to this VM or another;
        several may share one that all attach with ``read_only``.
        """
        return disk.attach(self, bus, read_only=read_only, properties=properties, timeout=timeout)

    def detach(self, disk: Disk, *, timeout: float = UNPLUG_SECONDS) -> None:
        """Detach a disk and return when it is gone and its file is free. Raises NotAttached."""
        self._running()
        disk.detach(self, timeout)
