"""What is put in front of disks to have them fail: block nodes between a device and the image behind it.

Sectors count there as the guest counts them, whatever the image's format. For all faults of a disk together
there is one chain of nodes, ``device -> throttle -> blkdebug -> the disk's own nodes``. It is made anew with
each change and put in place by one command, ``qom-set drive``, so that faults can heal in any order. QEMU
lets the requests end that are on their way through the old chain; that takes 2 ms, and none is lost.

The filter that holds requests back is the uppermost, always: when the machine is reset or stopped or the
device goes, QEMU waits for the requests of the node that the device is on, and lets those go that are held
back by that very node. Held anywhere below, they would have QEMU wait for ever (7.2 and 10.0).
"""

from __future__ import annotations

import itertools
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_qemuvm.devices.steps import AddBlockNode, AddDevice, AddObject
from pytest_qemuvm.errors import QemuVMError
from pytest_qemuvm.machine.backends import remove
from pytest_qemuvm.spec.devices import DiskSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_qemuvm.machine.faults.diskfault import DiskFault
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.live import Live

HELD_BYTES = 16 << 20
"""At one byte a second, what is read ahead of all requests holds them back for half a year."""


@dataclass(frozen=True, eq=False)
class Failing:
    """Requests that fail."""

    iotypes: tuple[str, ...]
    """QEMU's words: ``read``, ``write``, ``write-zeroes``, ``discard``, ``flush``."""
    errno: int
    sector: int | None = None
    once: bool = False


@dataclass(frozen=True, eq=False)
class Slow:
    """Requests that take their time."""

    bytes_per_second: int | None
    iops: int | None


@dataclass(frozen=True, eq=False)
class Held:
    """Requests that do not end."""


Effect = Failing | Slow | Held
Step = AddObject | AddBlockNode


@dataclass
class _Stack:
    """What is in front of one disk."""

    effects: list[Effect] = field(default_factory=list)
    steps: tuple[Step, ...] = ()


class Layers:
    """What is in front of the disks of one run of a VM."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._stacks: dict[str, _Stack] = {}
        self._noted: list[Step] = []
        self._faults: dict[str, list[DiskFault]] = {}
        self._spent: set[Effect] = set()
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    @property
    def nodes(self) -> frozenset[str]:
        """The block nodes that are there for faults, for the check."""
        return frozenset(step.node_name for step in tuple(self._noted) if isinstance(step, AddBlockNode))

    @property
    def objects(self) -> frozenset[str]:
        """The objects that are there for faults, for the check."""
        return frozenset(step.id for step in tuple(self._noted) if isinstance(step, AddObject))

    def effects(self, device: HotDevice) -> tuple[Effect, ...]:
        """Return what a disk has now."""
        stack = self._stacks.get(device.id)
        return tuple(stack.effects) if stack is not None else ()

    def faults(self, device: HotDevice) -> tuple[DiskFault, ...]:
        """Return the faults that a disk has now, in the order in which they began."""
        return tuple(fault for fault in self._faults.get(device.id, ()) if fault.active)

    def note(self, device: HotDevice, fault: DiskFault) -> None:
        """Note whose the effects are."""
        self._faults[device.id] = [*self.faults(device), fault]

    def heal(self, device: HotDevice) -> None:
        """Heal all faults of a disk, the last one first: it is about to go."""
        for fault in reversed(self.faults(device)):
            fault.heal()

    def top(self, device: HotDevice) -> str:
        """Return the node that the device is on: what is to be resized, so that the guest notices."""
        stack = self._stacks.get(device.id)
        return _top(stack.steps) if stack is not None and stack.steps else own_node(device)

    def put(self, device: HotDevice, effect: Effect) -> None:
        """Have a disk be so as well. Raises QemuVMError where QEMU does not; nothing is changed then."""
        with self._lock:
            stack = self._stacks.setdefault(device.id, _Stack())
            self._rebuild(device, stack, [*stack.effects, effect])

    def take(self, device: HotDevice, effect: Effect) -> None:
        """Have a disk be so no more."""
        with self._lock:
            stack = self._stacks.setdefault(device.id, _Stack())
            if effect in stack.effects:
                self._rebuild(device, stack, [each for each in stack.effects if each is not effect])

    # How it is done

    def _rebuild(self, device: HotDevice, stack: _Stack, effects: list[Effect]) -> None:
        """Put a chain of nodes for these effects in the place of the present one."""
        # What was to happen once, and has, is not to happen again in the new chain.
        self._spent |= {fault.effect for fault in self.faults(device) if fault.is_spent}
        with ExitStack() as undo:
            plan = list(self._chain(device, effects))
            for step in plan:
                undo.callback(self._remove, step)
                self._add(step)
            if any(isinstance(effect, Held) for effect in effects):
                self._fill(plan[0])
            self._set_root(device, _top(plan) if plan else own_node(device))
            undo.pop_all()
        old, stack.steps, stack.effects = stack.steps, tuple(plan), effects
        for step in reversed(old):
            self._remove(step)

    def _chain(self, device: HotDevice, effects: list[Effect]) -> Iterator[Step]:
        """Yield the steps of a chain, the lowest node first; a throttle group comes before all of them."""
        name = f"{device.id}-fault{next(self._numbers)}"
        below = own_node(device)
        # A filter swallows discards unless it is told to pass them on, and would want to write.
        options = {
            "discard": "unmap",
            "read-only": isinstance(device.spec, DiskSpec) and device.spec.read_only,
        }
        limits = _limits(effects)
        if limits:
            yield AddObject("throttle-group", f"{name}-rate", {"limits": limits})
        rules = [
            rule
            for effect in effects
            if isinstance(effect, Failing) and effect not in self._spent
            for rule in _rules(effect)
        ]
        if rules:
            yield AddBlockNode(
                "blkdebug", f"{name}-errors", {"image": below, "inject-error": rules, **options}
            )
            below = f"{name}-errors"
        if limits:
            throttle = {"file": below, "throttle-group": f"{name}-rate", **options}
            yield AddBlockNode("throttle", f"{name}-slow", throttle)

    def _fill(self, group: Step) -> None:
        """Use up what a throttle group grants before its first request: what comes then waits for ever.

        Only the human monitor can have QEMU read a node; this one has nothing behind it, and goes at once.
        """
        assert isinstance(group, AddObject)
        nothing = AddBlockNode("null-co", f"{group.id}-nothing", {"size": HELD_BYTES, "read-zeroes": True})
        throttle = {"file": nothing.node_name, "throttle-group": group.id}
        reader = AddBlockNode("throttle", f"{group.id}-reader", throttle)
        with ExitStack() as undo:
            for step in (nothing, reader):
                undo.callback(self._remove, step)
                self._add(step)
            line = f'qemu-io {reader.node_name} "read 0 {HELD_BYTES}"'
            self._live.qmp.execute("human-monitor-command", {"command-line": line}, allow_dangerous=True)

    def _add(self, step: Step) -> None:
        command = step.plug()
        self._noted.append(step)
        self._live.qmp.execute(command.name, dict(command.arguments))

    def _remove(self, step: Step) -> None:
        remove(self._live.qmp, step.unplug())
        self._noted.remove(step)

    def _set_root(self, device: HotDevice, node: str) -> None:
        """Put a device on a node, and look whether QEMU has it there. One that has gone is on none."""
        drive = find_drive(self._live, device)
        # QEMU does not survive being told to go where it is (7.2).
        if drive is None or drive["inserted"]["node-name"] == node:
            return
        qdev = drive["qdev"]
        path = qdev if qdev.startswith("/") else f"/machine/peripheral/{qdev}"
        self._live.qmp.execute("qom-set", {"path": path, "property": "drive", "value": node})
        drive = find_drive(self._live, device)
        found = drive.get("inserted", {}).get("node-name") if drive is not None else None
        if drive is not None and found != node:
            raise QemuVMError(
                f"disk {device.id!r} is on {found!r}, not on {node!r}, where QEMU was to put it"
            )


def own_node(device: HotDevice) -> str:
    """Return the node that a disk is on where nothing is in front of it."""
    last = device.fragment.steps[-1]
    assert isinstance(last, AddDevice)
    return str(last.properties["drive"])


def find_drive(live: Live, device: HotDevice) -> dict[str, Any] | None:
    """Return what QEMU says of a disk's drive; None where it does not have the device any more.

    It names some by their id, others by a path: virtio's by its backend, USB's by the SCSI disk within.
    """
    return next((drive for drive in live.qmp.execute("query-block") if is_of(drive, device)), None)


def is_of(entry: dict[str, Any], device: HotDevice) -> bool:
    """Return whether QEMU speaks of a device there, by its ``qdev``."""
    qdev = str(entry.get("qdev", ""))
    place = f"/machine/peripheral/{device.id}"
    return qdev in (device.id, place) or qdev.startswith(f"{place}/")


def _top(steps: list[Step] | tuple[Step, ...]) -> str:
    last = steps[-1]
    assert isinstance(last, AddBlockNode)
    return last.node_name


def _rules(effect: Failing) -> Iterator[dict[str, Any]]:
    """Yield blkdebug's rules, in QEMU's words."""
    for iotype in effect.iotypes:
        rule: dict[str, Any] = {"event": "none", "iotype": iotype, "errno": effect.errno, "once": effect.once}
        if effect.sector is not None:
            rule["sector"] = effect.sector
        yield rule


def _limits(effects: list[Effect]) -> dict[str, int]:
    """Return the limits of a throttle group: of several slow faults the slowest counts."""
    if any(isinstance(effect, Held) for effect in effects):
        return {"bps-total": 1}
    slow = [effect for effect in effects if isinstance(effect, Slow)]
    rates = [effect.bytes_per_second for effect in slow if effect.bytes_per_second is not None]
    iops = [effect.iops for effect in slow if effect.iops is not None]
    return ({"bps-total": min(rates)} if rates else {}) | ({"iops-total": min(iops)} if iops else {})
