"""The harness's books as the coherence check reads them: what was recorded, and where to look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_qemuvm.coherence import Graph, Machine
from pytest_qemuvm.coherence.facts import DiskEntry, VMEntry
from pytest_qemuvm.devices.steps import (
    AddBlockNode,
    AddDevice,
    AddListeningChardev,
    AddNetdev,
    AddObject,
    AddPassedNetdev,
    AddSocketChardev,
)
from pytest_qemuvm.machine.hotdevice import Cdrom

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_qemuvm.devices.steps import Step
    from pytest_qemuvm.machine.disks import Disk
    from pytest_qemuvm.machine.hotdevice import HotDevice
    from pytest_qemuvm.machine.live import Live
    from pytest_qemuvm.machine.vm import VM


def vm_entry(vm: VM, *, changing: bool) -> VMEntry:
    """Return what is recorded of a VM now."""
    record, live = vm.record, vm.live
    devices = live.hotplug.accounted if live is not None else ()
    sockets = {device.path for device in devices if device.path is not None}
    if live is not None:
        sockets.add(vm.monitor_path)
    return VMEntry(
        name=vm.name,
        state=record.state,
        run=record.starts,
        process=(live.process.pid, live.process.ticks) if live is not None else None,
        changing=changing,
        run_dir=vm.run_dir,
        plugged=_parts(devices, live),
        sockets=frozenset(sockets),
    )


def machine(vm: VM) -> Machine:
    """Return where the check has to look for a VM."""
    live = vm.live
    return Machine(
        vm.name,
        alive=lambda: live is not None and live.alive,
        pid=live.process.pid if live is not None else None,
        exit_status=lambda: live.process.status() if live is not None else None,
        qmp=live.qmp if live is not None else None,
        unseen_panic=lambda: vm.unseen_panic,
        asked=live is not None and not live.fails and not live.freezer.frozen,
    )


def disk_entry(disk: Disk) -> DiskEntry:
    """Return what is recorded of a disk now."""
    state = disk.state  # takes note of devices that have gone with their machine
    return DiskEntry(disk.name, disk.path, state, disk.record.holder)


def _parts(devices: Iterable[HotDevice], live: Live | None) -> Graph:
    """Return what the harness has told QEMU to have: for these devices, for snapshots and for faults."""
    steps: list[Step] = []
    nodes = set(live.snapshots.nodes | live.layers.nodes) if live is not None else set()
    for device in devices:
        steps += device.fragment.steps
        if isinstance(device, Cdrom):
            nodes.update(device.medium_nodes())
    return Graph(
        block_nodes=frozenset(nodes | {step.node_name for step in steps if isinstance(step, AddBlockNode)}),
        devices=_ids(steps, AddDevice),
        netdevs=_ids(steps, AddNetdev, AddPassedNetdev),
        chardevs=_ids(steps, AddSocketChardev, AddListeningChardev),
        objects=_ids(steps, AddObject)
        | (live.layers.objects | live.own_objects if live is not None else frozenset()),
    )


def _ids(steps: Iterable[Step], *kinds: type) -> frozenset[str]:
    return frozenset(step.id for step in steps if isinstance(step, kinds))  # type: ignore[attr-defined]
