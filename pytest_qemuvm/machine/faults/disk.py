"""Faults of disks: requests that fail, that take their time, that do not end."""

from __future__ import annotations

import errno as errnos
from functools import partial
from typing import TYPE_CHECKING

from pytest_qemuvm.devices.disk import SECTOR, serial_of
from pytest_qemuvm.errors import DiskHasFault, NotAttached, NotRunning, SpecError, nearest
from pytest_qemuvm.host.deadline import Deadline
from pytest_qemuvm.machine.disks import Disk
from pytest_qemuvm.machine.faults.diskfault import DiskFault
from pytest_qemuvm.machine.faults.layers import Failing, Held, Slow, find_drive, own_node
from pytest_qemuvm.machine.faults.power import PowerFaults
from pytest_qemuvm.machine.hotdevice import HotDevice
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from pytest_qemuvm.machine.faults.layers import Effect
    from pytest_qemuvm.machine.live import Live

TURN_SECONDS = 60.0
"""How long another thread's plug or unplug is waited for."""
HIGHEST_RATE = 10**15
"""What QEMU takes for a rate."""
_IOTYPES = {
    "read": ("read",),
    "write": ("write", "write-zeroes"),
    "flush": ("flush",),
    "discard": ("discard",),
}
"""QEMU's words for what a guest asks of a disk."""
_CHANGES = ("write", "flush", "discard")


class DiskFaults(PowerFaults):
    """The faults of a VM's disks.

    A disk is named by its handle, its id, its serial, or its number among those plugged now.
    """

    def disk_error(
        self,
        disk: HotDevice | Disk | str | int,
        *,
        errno: str = "EIO",
        on: str | Iterable[str] = "write",
        sector: int | None = None,
        once: bool = False,
    ) -> DiskFault:
        """Have requests of a disk fail with an error.

        ``on`` is ``"read"``, ``"write"``, ``"flush"`` or ``"discard"``, or several of them; with ``sector``
        only those fail that touch this sector, of 512 bytes as the guest counts them; with ``once`` it is the
        next one and no other. What the guest sees of the error is up to the bus: EIO on most. Where the disk
        was given ``on_error="stop"``, the machine stops instead (``io-error``), and goes on when this heals.

        Raises SpecError for what cannot be, NotAttached, NotRunning, and DiskHasFault where another fault of
        the disk does not go with it.
        """
        live, device = self._found(disk)
        kinds = _kinds(on)
        _check_writable(device, kinds)
        number = _errno(errno)
        if sector is not None:
            self._check_sector(live, device, sector, kinds)
        if not isinstance(once, bool):
            raise SpecError(f"once: {once!r} is neither True nor False")
        if once and len(kinds) > 1:
            raise SpecError(f"once: one request is of one kind, not of {len(kinds)}", hint="name one in on=")
        iotypes = kinds if once else tuple(each for kind in kinds for each in _IOTYPES[kind])
        where = "" if sector is None else f" at sector {sector}"
        number_of = "the next" if once else "every"
        what = f"{errno} on {number_of} {' and '.join(kinds)}{where}"
        return self._inject(live, device, what, Failing(iotypes, number, sector, once))

    def read_only_disk(self, disk: HotDevice | Disk | str | int) -> DiskFault:
        """Have a disk take nothing any more, as flash memory at the end of its life does.

        Writes, flushes and discards fail, and reads do not. The disk does not say of itself that it is
        read-only: QEMU tells a guest that when it is plugged and never again. Raises as ``disk_error`` does.
        """
        live, device = self._found(disk)
        _check_writable(device, _CHANGES)
        iotypes = tuple(each for kind in _CHANGES for each in _IOTYPES[kind])
        return self._inject(live, device, "takes nothing any more", Failing(iotypes, errnos.EROFS))

    def slow_disk(
        self,
        disk: HotDevice | Disk | str | int,
        *,
        bytes_per_second: int | None = None,
        iops: int | None = None,
    ) -> DiskFault:
        """Have a disk move no more than so many bytes, and answer no more than so many requests, a second.

        Of several such faults the slowest counts. Reads, writes and discards are counted together; flushes
        are not. Raises as ``disk_error`` does.
        """
        live, device = self._found(disk)
        if bytes_per_second is None and iops is None:
            raise SpecError("a slow disk needs a rate", hint="bytes_per_second= or iops=, or both")
        _check_rate(bytes_per_second, "bytes_per_second")
        _check_rate(iops, "iops")
        rates = [f"{bytes_per_second} bytes" if bytes_per_second else "", f"{iops} requests" if iops else ""]
        what = f"{' and '.join(filter(None, rates))} a second"
        _check_throttled(device)
        return self._inject(live, device, what, Slow(bytes_per_second, iops))

    def hung_disk(self, disk: HotDevice | Disk | str | int) -> DiskFault:
        """Have a disk that answers no more: what it is asked waits, fails never, and is done when this heals.

        A flush waits only for what it is to flush: where nothing was written since the last one, it is
        answered. Whatever QEMU does that has to have all requests ended lets those go that wait: a pause, a
        reset, an unplug. It goes with no other fault of the disk. Raises as ``disk_error`` does.
        """
        live, device = self._found(disk)
        _check_throttled(device)
        return self._inject(live, device, "answers no more", Held())

    # How it is done

    def _inject(self, live: Live, device: HotDevice, what: str, effect: Effect) -> DiskFault:
        layers = live.layers
        with live.hotplug.turn(Deadline.after(TURN_SECONDS)):
            if not device.present:
                raise NotAttached(f"{device.id!r} is not plugged in any more")
            _check_goes_with(layers.faults(device), effect)
            kind = partial(DiskFault, live=live, device=device, effect=effect)

            def act(undo: ExitStack) -> None:
                undo.callback(self._go_on, live, device, effect)
                undo.callback(layers.take, device, effect)
                layers.put(device, effect)

            line = f"disk {device.id} of VM {self._vm.name}: {what}"
            fault: DiskFault = self._ledger.inject(line, live, act, kind=kind)
            layers.note(device, fault)
        return fault

    @staticmethod
    def _go_on(live: Live, device: HotDevice, effect: Effect) -> None:
        """Let the machine go on that this fault has stopped, unless another one would stop it again."""
        faults = live.layers.faults(device)
        mine = [fault for fault in faults if fault.effect is effect and fault.stopped_machine]
        others = [fault for fault in faults if fault.effect is not effect and fault.stopped_machine]
        if not mine or others or live.qmp.execute("query-status")["status"] != "io-error":
            return
        live.execute_until("cont", "RESUME")

    def _found(self, disk: HotDevice | Disk | str | int) -> tuple[Live, HotDevice]:
        """Return the running machine and the device of a disk."""
        live = self._vm.live
        if live is None or not live.alive:
            raise NotRunning(f"VM {self._vm.name!r} is not running: its disks cannot fail")
        known = [device for device in live.hotplug.devices if isinstance(device.spec, DiskSpec)]
        if isinstance(disk, HotDevice):
            if disk not in live.hotplug.devices:
                raise NotAttached(f"{disk.id!r} is no device of VM {self._vm.name!r} now")
            if disk not in known:
                raise SpecError(f"{disk.id!r} is no disk", hint="CD drives have no faults")
            return live, disk
        if isinstance(disk, Disk):
            for device in known:
                if device.path == disk.path:
                    return live, device
            raise NotAttached(f"disk {disk.name!r} is not attached to VM {self._vm.name!r}")
        return live, self._named(disk, known)

    def _named(self, name: object, known: list[HotDevice]) -> HotDevice:
        words = {device.id: device for device in known}
        for device in known:
            assert isinstance(device.spec, DiskSpec)
            words.setdefault(serial_of(device.spec, device.id), device)
        if isinstance(name, str) and name in words:
            return words[name]
        if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(known):
            return known[name]
        raise SpecError(f"VM {self._vm.name!r} has no disk {name!r}", hint=nearest(str(name), tuple(words)))

    @staticmethod
    def _check_sector(live: Live, device: HotDevice, sector: object, kinds: tuple[str, ...]) -> None:
        if "flush" in kinds:
            raise SpecError("sector: a flush is of the whole disk", hint="leave sector= out, or flush")
        if not isinstance(sector, int) or isinstance(sector, bool):
            raise SpecError(f"sector: {sector!r} is not a number")
        drive = find_drive(live, device)
        if drive is None:
            raise NotAttached(f"{device.id!r} is not plugged in any more")
        nodes = live.qmp.execute("query-named-block-nodes", {"flat": True})
        sizes = {node["node-name"]: node["image"]["virtual-size"] for node in nodes}
        sectors = sizes[own_node(device)] // SECTOR
        if not 0 <= sector < sectors:
            raise SpecError(f"sector: disk {device.id!r} has sectors 0 to {sectors - 1}, not {sector}")


def _kinds(on: object) -> tuple[str, ...]:
    given = (on,) if isinstance(on, str) or not hasattr(on, "__iter__") else tuple(on)
    for kind in given:
        if kind not in _IOTYPES:
            raise SpecError(
                f"on: {kind!r} is nothing that a disk does", hint=nearest(str(kind), tuple(_IOTYPES))
            )
    if not given:
        raise SpecError("on: nothing is to fail", hint=f"one of {', '.join(_IOTYPES)}")
    return tuple(dict.fromkeys(given))


def _errno(name: object) -> int:
    known = tuple(errnos.errorcode.values())
    if not isinstance(name, str) or name not in known:
        raise SpecError(f"errno: {name!r} is no error", hint=nearest(str(name), known))
    return int(getattr(errnos, name))


def _check_writable(device: HotDevice, kinds: tuple[str, ...]) -> None:
    assert isinstance(device.spec, DiskSpec)
    senseless = [kind for kind in kinds if kind in _CHANGES]
    if device.spec.read_only and senseless:
        raise SpecError(f"disk {device.id!r} is read-only: no {senseless[0]} ever reaches it")


def _check_rate(rate: object, key: str) -> None:
    if rate is None:
        return
    if not isinstance(rate, int) or isinstance(rate, bool) or not 0 < rate <= HIGHEST_RATE:
        raise SpecError(f"{key}: {rate!r} is not a number from 1 to {HIGHEST_RATE}")


def _check_throttled(device: HotDevice) -> None:
    """Raise SpecError for a disk that cannot be slowed down: QEMU dies of it (SIGSEGV, 7.2 and 10.0)."""
    assert isinstance(device.spec, DiskSpec)
    if device.spec.has_iothread:
        raise SpecError(
            f"disk {device.id!r} has an iothread, and QEMU does not survive a throttle there",
            hint="leave iothread out of its properties",
        )


def _check_goes_with(faults: tuple[DiskFault, ...], effect: Effect) -> None:
    """Raise DiskHasFault for faults that would not be told apart, or be undone by one another.

    A change of what is in front of a disk lets requests go that are held; and where several things fail
    alike, nobody can tell whether it was the one that was to fail once.
    """
    for fault in faults:
        other = fault.effect
        held = isinstance(other, Held) or isinstance(effect, Held)
        alike = (
            isinstance(other, Failing)
            and isinstance(effect, Failing)
            and (other.once or effect.once)
            and not set(other.iotypes).isdisjoint(effect.iotypes)
        )
        if held or alike:
            raise DiskHasFault(
                f"this does not go with another fault of the same disk: {fault.what}",
                hint="heal that one first",
                fault=fault.what,
            )
