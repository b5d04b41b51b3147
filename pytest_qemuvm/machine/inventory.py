"""What is plugged at one moment, exactly; and the way back to it, whatever came and went since.

The way back begins when the machine stands still and ends before its memory is loaded, so no guest has to
agree to anything: what it would have to let go is ejected in its place, and it never knows.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.steps import AddDevice, AddSocketChardev
from pytest_qemuvm.errors import CommandError, DiskStateError, UnplugRejected, VMStateError
from pytest_qemuvm.machine.hotdevice import Cdrom
from pytest_qemuvm.machine.qtest import HeldHands
from pytest_qemuvm.machine.whereabouts import exact_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_qemuvm.host.deadline import Deadline
    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.hotplug import Ledger
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.vm import VM


@dataclass(frozen=True, slots=True)
class Placed:
    """A device, and all that is needed to have the very same again."""

    device: HotDevice
    exact: Mapping[str, Any]
    """Properties that bring it to the very same place."""
    medium: Path | None
    """What is in a CD drive."""
    disk: Disk | None
    """The disk of ``disk_factory`` that it is."""
    size: int | None
    """Virtual size of that disk, in bytes."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is plugged at one moment."""

    ledger: Ledger
    placed: tuple[Placed, ...]


def take_inventory(live: Live, disks: Iterable[Disk]) -> Inventory:
    """Look where each device is. ``disks`` are those of ``disk_factory``."""
    by_path = {str(disk.path): disk for disk in disks}
    ledger = live.hotplug.ledger
    placed = []
    for device in (*ledger.devices, *ledger.shells):
        image = device.supplies.image
        disk = by_path.get(image.path) if image is not None else None
        exact = exact_place(live.qmp, device)
        medium = device.medium if isinstance(device, Cdrom) else None
        placed.append(Placed(device, exact, medium, disk, disk.size if disk is not None else None))
    return Inventory(ledger, tuple(placed))


class WayBack:
    """The way from what is plugged now to what was plugged at an earlier moment of the same run."""

    def __init__(self, vm: VM, live: Live, inventory: Inventory, disks: Callable[[], Iterable[Disk]]) -> None:
        self._vm = vm
        self._live = live
        self._hotplug = live.hotplug
        self._inventory = inventory
        self._disks = disks

    @property
    def _leaving(self) -> list[HotDevice]:
        """Devices that were plugged since, the last one first."""
        known = {placed.device for placed in self._inventory.placed}
        return [device for device in reversed(self._hotplug.ledger.devices) if device not in known]

    @property
    def _coming(self) -> list[Placed]:
        """Devices that QEMU does not have any more."""
        now = self._hotplug.ledger
        return [
            placed for placed in self._inventory.placed if placed.device not in (*now.devices, *now.shells)
        ]

    def unplug_what_a_guest_must_let_go(self, deadline: Deadline) -> None:
        """Unplug, as always, what only a guest ejects: processors and memory. Raises as an unplug does."""
        processors = self._hotplug.processors
        loses = any(device.kind.needs == "cpu" for device in self._leaving)
        processors.check_sound("go back to a snapshot", loses=loses)
        processors.check_room(sum(placed.device.kind.needs == "cpu" for placed in self._coming))
        for device in self._leaving:
            if not _can_be_dropped(device):
                self._live.check_running()
                device.unplug(deadline.remaining)

    @contextmanager
    def held(self, deadline: Deadline) -> Iterator[None]:
        """Hold the disks that are to come back; nothing is touched where one of them cannot.

        Raises DiskStateError, AlreadyAttached naming the holder, and VMStateError for a port that was there
        from the start, of which the host's end is gone.
        """
        leaving = self._leaving
        with ExitStack() as stack:
            for placed in self._coming:
                self._check(placed)
                if placed.disk is not None:
                    stack.enter_context(placed.disk.coming_back(self._vm, leaving, deadline))
            for placed in self._inventory.placed:
                if placed.medium is not None and not placed.medium.exists():
                    raise DiskStateError(
                        f"the medium that was in {placed.device.id!r} is gone", str(placed.medium)
                    )
            yield

    def _check(self, placed: Placed) -> None:
        device = placed.device
        if any(isinstance(step, AddSocketChardev) for step in device.fragment.steps):
            raise VMStateError(
                f"{device.id!r} was there from the start and has been unplugged: it cannot come back",
                "its end on the host went with it",
                "plug serial ports with hotplug() where a snapshot is to bring them back",
            )
        image = device.supplies.image
        if placed.disk is not None and placed.disk not in self._disks():
            raise DiskStateError(f"disk {placed.disk.name!r}, which the snapshot needs, has been deleted")
        if image is not None and not Path(image.path).exists():
            raise DiskStateError(
                f"the image behind {device.id!r}, which the snapshot needs, is gone", image.path
            )

    def go(self, deadline: Deadline) -> None:
        """Have QEMU have what it had then. The machine stands still, and whatever runs in it is lost."""
        self._drop(self._leaving, deadline)
        for placed in self._coming:
            self._put_back(placed, deadline)
        for placed in self._inventory.placed:
            drive = placed.device
            if isinstance(drive, Cdrom) and drive.medium != placed.medium:
                if placed.medium is None:
                    drive.eject(force=True)
                else:
                    drive.change_medium(placed.medium, force=True)

    def arrived(self) -> None:
        """Note that the state of then has been loaded."""
        then, now = self._inventory.ledger, self._hotplug.ledger
        # What could only be emptied is still there, in its slot.
        shells = [shell for shell in now.shells if shell not in (*then.devices, *then.shells)]
        held = {slot: shell.id for shell in shells if (slot := shell.supplies.place.bus) is not None}
        free, taken = then.slots
        slots = tuple(slot for slot in free if slot not in held), (*taken, *held.items())
        self._hotplug.return_to(replace(then, shells=(*then.shells, *shells), slots=slots))
        for device in then.devices:
            device.plugged = True
        for placed in self._inventory.placed:
            if placed.disk is not None and placed.size is not None:
                placed.disk.came_back(self._vm, placed.device, placed.size)

    def _drop(self, devices: list[HotDevice], deadline: Deadline) -> None:
        """Take devices away without asking anybody."""
        qmp = self._live.qmp
        for device in devices:
            if not _can_be_dropped(device):
                raise UnplugRejected(f"{device.id!r} goes only by its guest's leave", device=device.id)
            self._live.layers.heal(device)
            try:
                qmp.execute("device_del", {"id": device.id}, timeout=deadline)
            except CommandError as error:
                # It has gone by itself, or was asked to go before.
                if error.class_ != "DeviceNotFound" and "process of unplug" not in error.desc:
                    raise
        if any(device.kind.parting(device.spec) == "asked" for device in devices):
            hands = self._live.played_guest or HeldHands(qmp, self._live.plan.machine.name)
            hands.eject_pending()
        for device in devices:
            wanted = {"device": device.id}
            qmp.wait_event("DEVICE_DELETED", wanted, since=self._live.since, timeout=deadline)
            self._hotplug.gone(device)

    def _put_back(self, placed: Placed, deadline: Deadline) -> None:
        """Plug a device again, as it was and where it was."""
        device, engine = placed.device, self._hotplug
        engine.departure.remove_backends(device)
        engine.watch(device.spec, device.id)
        engine.supplier.reconnect(device)
        for step in device.fragment.steps:
            exact = (
                replace(step, properties={**step.properties, **placed.exact})
                if isinstance(step, AddDevice)
                else step
            )
            engine.supplier.execute(exact, device, deadline, engine.execute)
        engine.verify_present(device)
        engine.back(device)
        if isinstance(device, Cdrom):
            device.replugged()


def _can_be_dropped(device: HotDevice) -> bool:
    """Return whether it goes when it is ejected in the guest's place."""
    parting = device.kind.parting(device.spec)
    return parting == "at once" or (parting == "asked" and device.kind.bus(device.spec) == "slot")
